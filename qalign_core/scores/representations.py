# shim: removed when the redesign is merged
from qalign_core import launch
from qalign_core.evaluate import PARALLEL as BENCHMARK
from qalign_core.evaluate import question_sets, representation_jobs, save_representations
from qalign_core.evaluate import representation_job as job
from qalign_core.evaluate import represented_models as models


def measure(profile, run):  # chapter 6: the same two steps in a cell
    alone = profile.model_copy(update={"run": profile.run.model_copy(update={"devices": 1, "hostfile": None})})
    for _, _, wanted in representation_jobs(profile, run):
        launch.run_job(wanted, alone, run)
    return save_representations(profile, run)
