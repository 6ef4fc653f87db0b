from loadtest.page import drawing, page, table, verdict


def test_cells_are_texts_unless_they_are_cells():
    made = table(("a", "b"), [("<script>", "1 < 2"), ("x", verdict(is_good=False))])
    assert "<script>" not in made
    assert "1 &lt; 2" in made
    assert '<td class="failed">FAILED</td>' in made


def test_two_drawings_on_a_page_do_not_share_ids(tmp_path):
    file = tmp_path / "a.svg"
    text = '<?xml version="1.0"?><svg><path id="p"/><use href="#p" clip-path="url(#p)"/></svg>'
    file.write_text(text)
    one, two = drawing(file, 1), drawing(file, 2)
    assert one == '<svg><path id="d1-p"/><use href="#d1-p" clip-path="url(#d1-p)"/></svg>'
    assert "d2-p" in two
    assert "d1-" not in two


def test_the_page_fetches_nothing():
    assert "http" not in page("Load", ["<p>x</p>"])
