"""At which angles training images enter a bank."""

from skdinoad._arrays.geometry import check_angles

__all__ = ["EIGHT", "chosen_angles", "merged_angles", "worth_turning"]

EIGHT = tuple(range(0, 360, 45))

#: rotations="auto" turns up to this many images: their bank then has the size that
#: 64 images have without.
_FEW = 8

#: Share by which turned copies must lower what held-out images usually score.
_GAIN = 0.1


def chosen_angles(rotations, n, can_turn) -> tuple:
    """Return the angles of a bank in degrees, 0 first.

    Parameters
    ----------
    rotations : str or sequence of float
        As for AnomalyDINO; "informed" gives what is to be tried.
    n : int
        Number of different images.
    can_turn : bool
        Whether X holds images.

    Raises
    ------
    ValueError
        If angles are no numbers, or features are to be turned.

    Examples
    --------
    >>> from skdinoad.detectors._rotations import chosen_angles
    >>> chosen_angles("auto", 20, True), chosen_angles([90], 20, True)
    ((0,), (0.0, 90.0))
    """
    if isinstance(rotations, str):
        turn = can_turn and rotations != "none"
        return EIGHT if turn and (rotations != "auto" or n <= _FEW) else (0,)
    angles = check_angles(rotations)
    if not can_turn and angles != (0,):
        raise ValueError(
            f"rotations={rotations!r}, but X holds features, and only images can be "
            "turned. Pass images, or rotations='none'."
        )
    return angles


def merged_angles(wanted, there) -> tuple:
    """Return the angles of a bank made of several.

    Parameters
    ----------
    wanted : tuple of float
        Those that one fit on all images takes, or tries; of turned copies that are
        there some, or all, can be dropped, and none made.
    there : list of tuple of float
        Those of each bank.

    Raises
    ------
    ValueError
        If copies are wanted that some banks have and some have not.

    Examples
    --------
    >>> from skdinoad.detectors._rotations import merged_angles
    >>> merged_angles((0,), [(0, 45), (0,)])
    (0,)
    """
    if wanted == (0,) or set(there) == {wanted}:
        return wanted
    if set(there) == {(0,)}:  # all have found turned copies to be of no use
        return (0,)
    raise ValueError(
        f"Some of the detectors keep copies turned by {wanted}, and some do not, as "
        "each decided for itself. Use fit_sharded, or fit them with "
        "rotations='agnostic' or 'none'."
    )


def worth_turning(plain, turned) -> tuple:
    """Return by what share turned copies lower a usual score, and whether that will do.

    Parameters
    ----------
    plain, turned : float
        What a held-out image usually scores without and with turned copies.
    """
    gain = float(1 - turned / max(plain, 1e-12))
    return gain, gain >= _GAIN
