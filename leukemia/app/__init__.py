"""`leukemia app`: the page on which an expert reviews the cells that triage does not release.

Starlette and uvicorn serve HTML templates and our own scripts; SQLite keeps the decisions. Page builders such as Gradio
and NiceGUI draw their widgets in the browser and send each key stroke through a socket and a queue. They own the focus
order, the labels and the markup that a test has to know. Here a key stroke is one request of a few milliseconds. A test
can check focus order, labels and contrast in plain HTML, and a strict policy keeps the browser from loading anything
from elsewhere.
"""
