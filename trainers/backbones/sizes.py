"""What input sizes a network can take."""

from search_space.errors import UserError


def final_size(name: str, input_size: int, reduction: int = 16) -> int:
    """Side of the last feature map of a network that reduces its input by `reduction`.

    Raises:
        UserError: `input_size` is not a positive multiple of `reduction`.
    """
    size, rest = divmod(input_size, reduction)
    if rest or size < 1:
        below, above = max(size, 1) * reduction, (size + 1) * reduction
        near = f"{below} or {above}" if below != above else f"{above}"
        raise UserError(
            f"backbone {name} needs an input_size that is a multiple of {reduction}, got {input_size}:"
            f" take {near}, or the backbone `small`"
        )
    return size
