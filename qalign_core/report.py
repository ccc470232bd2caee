# shim: removed when the redesign is merged
from qalign_core.show.report import ACCURACY, CONSISTENCY, caption, main, redraw, remarks, run_figures as _figures, run_tables
from qalign_core.show.paper_tables import ablation_table, accuracy_table, comparison_table, consistency_table, data_table, gap_table, split_table
from qalign_core.show.tables import print_table, save_table, styled
from qalign_core.scores.published import published
from qalign_core.scores.results import read_results, write_results
