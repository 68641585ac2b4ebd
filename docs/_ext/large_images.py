"""Pictures lead to themselves in their full size, which a phone needs."""

from docutils import nodes


def _link(app, doctree):
    del app
    for image in doctree.findall(nodes.image):
        if "width" not in image and not any(name.startswith("only-") for name in image["classes"]):
            image["width"] = "100%"  # Sphinx links what is scaled to the file


def setup(app):
    """Registers the change."""
    app.connect("doctree-read", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
