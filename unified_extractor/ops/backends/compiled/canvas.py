"""Images, dynamic kernels and offsets on their way between memory and a thread's buffers.

T positions in a tile, L channels (lanes) of a channel block. ``available`` is how many positions are left: the last tile of an image or
of the windows may have fewer than T.
"""

# mypy: ignore-errors

from unified_extractor.ops.backends.compiled.compilation import inlined
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.vectors import (
    as_number,
    lanes,
    load_at,
    load_columns,
    load_places,
    load_row,
    store_at,
    store_columns,
    store_row,
)


@inlined
def fill(memory, count, value):
    """Write the same number ``count`` times."""
    for i in range(count):
        memory[i] = value


@inlined
def raster_start(raster, p):
    """Return the place in a raster's table of position p, the first of a tile, and what to add to the T numbers from there on."""
    row, column = divmod(p, raster.width)
    if p < raster.last:
        return column, row * raster.step
    return raster.tail, 0


@inlined
def next_tile(raster, at, more):
    """Return what ``raster_start`` returns for the next tile, from what it returned for one that is full; it divides nothing."""
    at += T
    while at >= raster.width:
        at -= raster.width
        more += raster.step
    return at, more


@inlined
def raster_places(raster, p, shift):
    """Return the places of T positions from p on, ``shift`` added."""
    at, more = raster_start(raster, p)
    return load_places(raster.table, at, more + shift)


@inlined
def locate_windows(plan, p, windows):
    """Write y and x of the first taps of T windows from p on to ``windows[axis, t]``, in pixels."""
    at_y, more_y = raster_start(plan.window_y, p)
    at_x, more_x = raster_start(plan.window_x, p)
    for t in range(T):
        windows[t] = as_number(windows, plan.window_y.table[at_y + t] + more_y)
        windows[T + t] = as_number(windows, plan.window_x.table[at_x + t] + more_x)


@inlined
def load_block(image, start, stride, channels, available, edge):
    """Return the tile of ``channels`` rows of ``image``, ``stride`` apart; zero in missing channels and positions."""
    if channels == lanes(image) and available >= T:
        return load_columns(image, start, stride)
    fill(edge, T * lanes(image), as_number(image, 0))
    for c in range(channels):
        for t in range(min(T, available)):
            edge[c * T + t] = image[start + c * stride + t]
    return load_columns(edge, 0, T)


@inlined
def store_block(image, start, stride, channels, available, tile, edge):
    """Write the tile to ``channels`` rows of ``image``, ``stride`` apart, as far as there are channels and positions."""
    if channels == lanes(image) and available >= T:
        store_columns(image, start, stride, tile)
    else:
        store_columns(edge, 0, T, tile)
        for c in range(channels):
            for t in range(min(T, available)):
                image[start + c * stride + t] = edge[c * T + t]


@inlined
def pack(image, first, channels, pixels, canvas, places, shift, edge):
    """Copy ``channels`` planes, from plane ``first`` on, into a block's canvas at ``shift``."""
    at, more = 0, 0
    for q in range(0, pixels, T):
        if q >= places.last:
            at, more = places.tail, 0
        tile = load_block(image, first * pixels + q, pixels, channels, pixels - q, edge)
        store_at(canvas, load_places(places.table, at, more + shift), 0, tile)
        at, more = next_tile(places, at, more)


@inlined
def unpack(image, first, channels, pixels, canvas, places, shift, edge):
    """Copy a block's canvas at ``shift`` into ``channels`` planes, from plane ``first`` on."""
    at, more = 0, 0
    for q in range(0, pixels, T):
        if q >= places.last:
            at, more = places.tail, 0
        tile = load_at(canvas, load_places(places.table, at, more + shift), 0)
        store_block(image, first * pixels + q, pixels, channels, pixels - q, tile, edge)
        at, more = next_tile(places, at, more)


@inlined
def stage(values, group, layout, p, available, rows):
    """Copy all rows of a group, at T windows from p on, to ``rows[row, t]``; zero where no window is left."""
    first = group * layout.rows * layout.size
    if layout.per_window and available >= T:
        for r in range(layout.rows):
            store_row(rows, r * T, load_row(values, first + r * layout.size + p))
    else:
        start, more = raster_start(layout.elements, p)
        for r in range(layout.rows):
            for t in range(T):
                at = first + r * layout.size + layout.elements.table[start + t] + more
                rows[r * T + t] = values[at] if t < available else as_number(values, 0)


@inlined
def stage_backward(grad_values, group, layout, p, available, grad_rows):
    """Write the gradient ``grad_rows[row, t]`` of staged rows to that of the values, or add it where windows share a value."""
    first = group * layout.rows * layout.size
    if layout.per_window and available >= T:
        for r in range(layout.rows):
            store_row(grad_values, first + r * layout.size + p, load_row(grad_rows, r * T))
    else:
        start, more = raster_start(layout.elements, p)
        for r in range(layout.rows):
            for t in range(min(T, available)):
                at = first + r * layout.size + layout.elements.table[start + t] + more
                grad_values[at] = grad_rows[r * T + t] if layout.per_window else grad_values[at] + grad_rows[r * T + t]
