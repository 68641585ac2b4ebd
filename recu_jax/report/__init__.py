"""Writes the page of one or several runs: `report.html`, one file that a browser shows without the internet.

Plotly draws the figures in the browser. The page holds the numbers and Plotly's script. Plotly has three advantages
here. Python rewrites the page after an epoch in some milliseconds, while matplotlib takes half a second for the same
figures. Readers can choose a layer and an epoch. The page follows the browser's light or dark scheme. The disadvantage
is a file of 5 MB.

`runs` reads workdirs, `figures` makes Plotly's figures, and `page` makes the HTML. `live` rewrites the page while a run
trains.
"""
