"""Checks CITATION.cff: it names the paper that the README asks to cite, and the licence of the package."""

import re

import yaml

from tests.support import ROOT
from tests.support.metadata import metadata


def test_it_cites_the_paper_of_the_readme():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    bibtex = dict(re.findall(r"^  (\w+)\s*= \{(.*)\}", (ROOT / "README.md").read_text(), re.MULTILINE))
    paper = cited["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert (paper["title"], authors, str(paper["year"])) == (bibtex["title"], bibtex["author"], bibtex["year"])
    assert bibtex["booktitle"] in paper["collection-title"]
    assert cited["title"] == metadata()["Name"] and cited["license"] == metadata()["License-Expression"]
