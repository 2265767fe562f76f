"""The page in a real browser: it sorts, draws and shows samples, says nothing in the console, and asks nobody for anything."""

import pytest

from diffusion_lab.report.make import make_report

from .synthetic import write_sweep

pytestmark = pytest.mark.needs("chromium")
HOSTILE = "<b onclick=x>&</script>"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A report with everything: several axes, a failed cell, a name that would be markup."""
    axes = {
        "variance": ["fixed_large", "learned"],
        "sampler": ["ddpm", "strided", "ddim"],
        "sampler.spacing.num_steps": ["10", "50"],
        "note": [HOSTILE, "plain"],
        "seed": ["1", "2"],
    }
    sweep = write_sweep(tmp_path_factory.mktemp("outputs"), axes=axes)
    next(sweep.outputs.glob("runs/*-learned-ddim-50-plain")).joinpath("metrics.json").unlink()
    return make_report(sweep)


@pytest.fixture(params=[(1440, "light"), (390, "dark")], ids=["desktop-light", "phone-dark"])
def page(request, browser, path):
    """The page, opened; afterwards no error may have been said and no request may have left."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(20_000)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    context.close()


def column(page, heading):
    """The numbers of a column by letter, as they stand from top to bottom; None for what is not there."""
    return page.evaluate(
        """heading => {
            const headings = [...document.querySelectorAll("main thead tr:first-child th")];
            const place = headings.findIndex(th => th.textContent.startsWith(heading));
            return [...document.querySelectorAll("tbody tr[data-row]")].map(row => {
                const cell = row.children[place];
                return [cell.dataset.letter ?? "", cell.dataset.sort === undefined ? null : Number(cell.dataset.sort)];
            });
        }""",
        heading,
    )


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(page):
    heading = page.locator("main thead button", has_text="fd_digits_cnn")
    heading.click()
    rising = [number for _, number in column(page, "fd_digits_cnn")]
    assert rising == sorted(rising)
    assert rising[0] < rising[-1]
    heading.click()
    assert [number for _, number in column(page, "fd_digits_cnn")] == sorted(rising, reverse=True)
    assert page.locator("th[aria-sort=descending]").count() == 1


def test_sorting_keeps_apart_what_was_measured_differently(page):
    page.locator("main thead button", has_text="bits/dim").click()
    entries = column(page, "bits/dim")
    numbers = [entry for entry in entries if entry[1] is not None]
    assert numbers == sorted(numbers)
    assert entries[: len(numbers)] == numbers, "what has no single number comes last"
    assert len({letter for letter, _ in entries}) == 3


def test_every_plot_is_drawn_and_its_choices_change_it(page):
    cards = page.locator(".plot")
    assert cards.count() == 6
    for card in cards.all():
        card.scroll_into_view_if_needed()
        card.locator(".main-svg .scatterlayer .trace").first.wait_for(state="attached")
        assert card.locator(".panel").first.evaluate("panel => panel.querySelectorAll('.point, .js-line').length") > 0
    samples = cards.filter(has_text="Samples against steps")
    samples.locator("select").select_option(label="recall")
    assert samples.get_attribute("data-drawn") == "steps_recall"
    assert "recall" in samples.locator(".ytitle").first.text_content()
    drawn = samples.locator(".trace").count()
    button = samples.locator(".legend button:visible").first
    button.click()
    assert samples.locator(".trace").count() < drawn
    samples.locator("select").select_option(label="precision")
    hidden = samples.locator(".legend button:visible[aria-pressed=false]")
    assert hidden.all_text_contents() == [button.text_content()]


def test_clicked_rows_show_their_samples_side_by_side(page):
    before = page.locator("tr[aria-selected=true]").count()
    assert before or page.locator(".card").count() == 4, "of the first rows, until one is chosen"
    row = page.locator("tbody tr[data-row][aria-selected=false]").first
    number = row.get_attribute("data-row")
    page.locator(f"tr[data-row='{number}']").click()
    card = page.locator(f".card[data-row='{number}']")
    card.locator(".picture[data-drawn=true]").wait_for()
    assert page.locator(".card").count() == before + 1
    shades = card.locator("canvas").evaluate(
        "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 === 0)).size"
    )
    assert shades > 10
    card.locator(".seed", has_text="2").click()
    assert card.locator(".seed[aria-pressed=true]").text_content() == "2"
    page.locator(".card").first.locator(".picture").hover(position={"x": 5, "y": 5})
    assert page.locator(".mark").evaluate_all("marks => marks.every(m => m.style.display === 'block')")
    card.locator(".close").click()
    assert page.locator(".card").count() == before
    assert page.locator(f"tr[data-row='{number}']").get_attribute("aria-selected") == "false"


def test_choices_filter_rows(page):
    page.locator("button.pill", has_text="strided").click()
    shown = page.locator("tr[data-row]:visible")
    assert shown.count() == 2 * 2 * 2
    page.locator("button.pill", has_text="strided").click()
    assert page.locator("tr[data-row]:visible").count() == 2 * 5 * 2 - 3  # ddim draws the same with both notes


def test_the_theme_can_be_turned(page):
    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    def stroke():
        return page.locator(".plot .js-line").first.evaluate("line => line.style.stroke")

    page.locator(".plot").first.scroll_into_view_if_needed()
    page.locator(".plot .js-line").first.wait_for(state="attached")
    before = background(), stroke()
    page.locator("#theme").click()
    assert background() != before[0]
    assert stroke() != before[1]


def test_a_point_says_its_row_and_a_click_on_it_shows_the_samples(page):
    card = page.locator(".plot", has_text="Distance against time")
    card.scroll_into_view_if_needed()
    point = card.locator(".scatterlayer .trace").nth(1).locator(".point").first
    point.wait_for()
    before = page.locator(".card").count()
    point.hover(force=True)
    said = card.locator(".hovertext").first
    said.wait_for()
    assert " · " in said.text_content()
    assert " ± " in said.text_content()
    point.click(force=True)
    assert page.locator(".card").count() != before


def test_the_page_is_no_wider_than_the_screen_and_says_what_is_missing(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "1 of 2" in page.locator("main tbody").inner_text()
    missing = page.locator(".missing").inner_text()
    assert "trained, not scored yet" in missing
    assert page.locator("tbody tr", has_text=HOSTILE).count() == 10
