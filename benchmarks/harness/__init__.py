"""The parts of ``study.py`` and ``report.py``: what a study is, its runs, and what they showed."""
