"""Windows on the regular grid as banded matrix products, for the matrix units.

Neighboring windows of a row share pixels, and the channels of a group share weights. So one row of the kernel is a matrix product for
P windows, R pixels and the N channels of a group: ``y[n, p] += sum_r x[n, r] * w[r, p]``, where ``w[r, p] = D[p, i, r - p]`` inside the
band ``0 <= r - p < kw`` and 0 outside. The gradient of x is the same with the band transposed, that of D is the band of a product of x
and the gradient.

Windows of a *class* lie so far apart that their taps fall on the same pixels: with dilation 2 every other window, at any stride. In
steps of the dilation a window then moves by ``stride / gcd(stride, dilation)`` pixels, and the band has no gaps.

Zeros outside the band are multiplied too: a pixel that is not finite makes results of windows nearby NaN, though they do not sample it.
"""
