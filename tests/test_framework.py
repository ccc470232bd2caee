"""Figure 1: what stands in it is the miniature's, and every letter of it can be drawn."""

from matplotlib import font_manager, ft2font
from matplotlib.backends.backend_agg import FigureCanvasAgg

from qalign_core.miniature.folder import benchmark_problems
from qalign_core.shown import framework


def test_one_question_of_the_miniature_runs_through_all_steps():
    steps = framework.steps()
    assert steps["input"].tolist()[::2] == [steps.loc[0, "input"]] * 2  # the foreign question
    assert steps.loc[0, "output"] == steps.loc[1, "input"]  # stage 2 begins with what stage 1 ends with
    assert steps.loc[1, "output"] == steps.loc[2, "output"]
    answer = benchmark_problems("mgsm", framework.EXAMPLE + 1)[framework.EXAMPLE].answer
    assert steps.loc[2, "output"].endswith(f"The answer is: {answer}")


def test_every_letter_is_in_the_font_and_every_text_in_its_box():
    path = font_manager.findfont("DejaVu Sans")
    letters = set(ft2font.FT2Font(path).get_charmap())
    figure, data = framework.framework()
    FigureCanvasAgg(figure).draw()
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    assert {ord(letter) for text in texts for letter in text} - {ord("\n")} <= letters
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches]
    running = [text for words, text in texts.items() if "\n" in words]
    assert " ".join(data.loc[0, "input"].split()) in {" ".join(text.get_text().split()) for text in running}
    for text in running:
        inner = text.get_window_extent()
        assert any(
            box.x0 <= inner.x0 and inner.x1 <= box.x1 and box.y0 <= inner.y0 and inner.y1 <= box.y1 for box in boxes
        ), text.get_text()
