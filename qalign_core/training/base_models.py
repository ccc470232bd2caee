# shim: removed when the redesign is merged
from qalign_core.models import base_tokenizer, model_identity, pretrains, starting_model


def base_model(profile, run, seed):  # for `plan` of before, which planned and wrote at once
    if profile.model.base == "miniature" and profile.model.miniature.weights == "trained":
        return {"path": run.relative(run.model(seed, [])), "revision": None}
    if profile.model.base == "miniature" and not (run.model(seed, []) / "config.json").is_file():
        run.may_write(run.model(seed, []))
    return starting_model(profile, run, seed)


def miniature_folder(profile, folder, seed, shipped, run):
    if not (folder / "config.json").is_file():
        run.may_write(folder)
    return starting_model(profile, run, seed)
