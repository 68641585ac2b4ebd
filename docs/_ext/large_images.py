"""Links pictures to their full-size files, for readers on a phone.

Skips pictures that have a width, and plots for light or dark pages.
"""

from docutils import nodes


def _link(app, doctree):
    del app
    for image in doctree.findall(nodes.image):
        if "width" not in image and not any(name.startswith("only-") for name in image["classes"]):
            image["width"] = "100%"  # Sphinx links a scaled image to its file


def setup(app):
    """Registers `_link`."""
    app.connect("doctree-read", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
