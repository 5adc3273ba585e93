"""`leukemia app`: the page on which an expert reviews the cells that triage does not release.

Starlette, uvicorn and server-side templates, with one script of our own and SQLite. Page builders such as Gradio and
NiceGUI draw their widgets in the browser from a description that travels over a socket: a key stroke goes through
their queue, focus and labels are theirs, and a test has to know their markup. Here a key stroke is one request of some
milliseconds, the page is plain HTML whose focus order, labels and contrasts a test can check, and the policy of what
a browser may load is strict, for nothing comes from elsewhere.
"""
