"""A tab a file: its widgets, and the two ways between their values and a request."""

from ipadapter_demo.ui.run.tab import Tab
from ipadapter_demo.ui.tabs import image_text, inpaint, structure, variation

# In the order of the page, by the name of the endpoint.
TABS: dict[str, Tab] = {
    tab.translate.__name__: tab
    for tab in (variation.TAB, image_text.TAB, structure.TAB, inpaint.TAB)
}
