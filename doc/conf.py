"""Sphinx configuration: make doc."""

import os

os.environ.setdefault("SKDINOAD_OFFLINE", "1")

import skdinoad

project = "skdinoad"
copyright = "2026, the skdinoad developers"
version = release = skdinoad.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "myst_parser",  # for the Markdown tables of benchmarks
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
html_theme = "furo"
html_title = "skdinoad"
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "examples/README.rst"]
autosummary_generate = True
autodoc_typehints = "none"  # docstrings describe types, shapes and units
# Docstrings inherited from scikit-learn refer to its own glossary.
suppress_warnings = ["ref.term", "ref.ref", "ref.doc"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
numpydoc_show_class_members = False
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
}
