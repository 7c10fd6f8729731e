"""Whether a student and a teacher can be compared at all: checked once, before anything is trained."""

from drdecr.modeling_drdecr import DrDecrModel, DrDecrTeacher

from .adapters import AdaptersOffTeacher

PROBE = "In 1969, Neil Armstrong's step: what was the moon's naïve 'first' word? 月, луна."
"""Read by both processors: digits, signs, letters beyond ASCII, and words that vocabularies cut differently."""


def check_dimensions(model: DrDecrModel, teacher: DrDecrTeacher | AdaptersOffTeacher | None) -> None:
    """Check that both embed into one space.

    Raises:
        ValueError: if their embedding dimensions differ.
    """
    if teacher is not None and teacher.config.embedding_dim != model.config.embedding_dim:
        raise ValueError(
            f"Student and teacher must share one space, got embedding_dim {model.config.embedding_dim} and "
            f"{teacher.config.embedding_dim}. Start the student from the teacher's checkpoint, or give both one width."
        )


def check_tokens(model: DrDecrModel, teacher: DrDecrTeacher | AdaptersOffTeacher | None) -> None:
    """Check that both read the anchor's tokens alike: its ids come from the student's processor and go to the teacher too.

    Raises:
        ValueError: if vocabularies, markers or prefixes differ. Models without a processor are not looked at.
    """
    if teacher is None or model.processor is None or teacher.processor is None:
        return
    ours, theirs = (one.processor.tokenizer.get_vocab() for one in (model, teacher))
    if ours != theirs:
        got = (
            f"vocabularies of {len(ours)} and {len(theirs)} tokens, {len(ours.items() & theirs.items())} of them shared"
        )
    else:
        ids = [one.processor.process_documents([PROBE])["input_ids"][0].tolist() for one in (model, teacher)]
        if ids[0] == ids[1]:
            return
        got = f"one vocabulary, but {ids[0][:8]} and {ids[1][:8]} as first ids: another marker, prefix or length"
    raise ValueError(
        f"english_anchor compares token with token, so student and teacher must read English alike, got {got}. Start the "
        "student from the teacher's checkpoint, or set `anchor_weight` to 0."
    )
