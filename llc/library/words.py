"""What went wrong, in a line."""


def first_line(error: BaseException) -> str:
    """Of the error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
