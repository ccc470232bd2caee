# shim: removed when the redesign is merged
from qalign_core.corpora import read_corpus
from qalign_core.prepare import FOLLOWED, audited, corpus_languages, data_sets, gather, hub_models, loaded
from qalign_core.prepare import save_lengths, translated, write_benchmarks, write_corpora
from qalign_core.sources import CACHE_DIR, DATA_DIR, cache_dir
