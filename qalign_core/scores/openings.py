# shim: removed when the redesign is merged
from qalign_core import launch
from qalign_core.evaluate import answers_fingerprint as answers_print
from qalign_core.evaluate import log_evaluation as record
from qalign_core.evaluate import recipe_fingerprint as recipe_print
from qalign_core.evaluate import system_jobs
from qalign_core.results import LOG_COLUMNS as COLUMNS
from qalign_core.results import looks, read_log


def ask(profile, run, system, seed):  # chapter 6: loop over evaluate.answering_jobs(profile, run, ablations=True)
    for job in system_jobs(profile, run, system, seed):
        launch.run_job(job, profile, run)


def looks_table(run):  # chapter 4: results.looks(run.results)
    return looks(run.results)
