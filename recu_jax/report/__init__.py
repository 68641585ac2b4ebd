"""A page of a run, or of several: `report.html`, one file that needs no network.

Plotly draws: the page holds the numbers and Plotly's script, so that writing it anew after an epoch takes Python some
milliseconds (matplotlib takes half a second to draw as much), a layer and an epoch can be chosen in it, and it follows
the browser's light or dark scheme. The price is a file of 5 MB.

`runs` reads workdirs, `figures` makes Plotly's figures, `page` the HTML; `live` rewrites it while a run trains.
"""
