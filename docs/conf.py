"""How Sphinx builds the documentation: `sphinx-build -W -b html docs docs/_build`."""

import os
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
# The plots of binarizers are computed while the pages are built.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "recu_jax"
author = "the authors of recu_jax"
release = re.search(r'__version__ = "(.+)"', (HERE.parent / "recu_jax" / "__init__.py").read_text()).group(1)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "binarizer_plots",
    "code_tables",
    "docstrings",
    "large_images",
    "mathml",
    "record_tables",
]
exclude_patterns = ["_build", "_generated"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_url_schemes = ["http", "https"]

# A name in single backticks becomes a link where the API has it, and plain code elsewhere.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
toc_object_entries = False
python_use_unqualified_type_names = True

html_theme = "furo"
# Each page says which version it describes.
html_title = f"recu_jax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1d4ed8", "color-brand-content": "#1d4ed8"},
    "dark_css_variables": {"color-brand-primary": "#7fb0ff", "color-brand-content": "#7fb0ff"},
}
copybutton_exclude = ".linenos, .gp, .go"
