"""The Compare tab: rows and columns of pictures that differ in one thing each."""

from ipadapter_demo.ui.tabs.compare.tab import CompareTab, build

__all__ = ["CompareTab", "build"]
