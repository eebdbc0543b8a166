// Motion on the grid of the scores, and scores that follow it.  A path says for each cell where what it shows
// lay in an earlier frame, relative to itself: height × width × (rows, columns), in cells.
#pragma once

#include "../upsample.hpp"
#include "guide.hpp"

namespace motion {

struct Grid {
    int height, width;
    upsample::Map y, x;  // from cells to pixels of the guide
};

// The path from `now` to `before`, and how far it can be trusted, 0 to 1 a cell; and the same from `before` to `now`,
// measured less finely, unless that is null.
void measure(const Guide &now, const Guide &before, const Grid &grid, float *path, float *trust, float *back_path,
             float *back_trust);

// The path through `first` and then on through `second`; trust is the product.
void compose(int height, int width, const float *first, const float *first_trust, const float *second,
             const float *second_trust, float *path, float *trust);

// Scores that lay at the path's other end: out(cell) = scores(cell + path(cell)).
void carry(const upsample::Scores &scores, const float *path, float *out);

// As `carry`, and mixed with the scores that are there: both count by how many frames they have seen, more than none.
void mix(const upsample::Scores &scores, const float *seen, const float *path, const float *trust, const float *now,
         const float *now_seen, float *out, float *out_seen);

// Scores of a frame between two others, as `carry` takes them from both: by trust, and `share` of the later one.
void between(const upsample::Scores &earlier, const float *path, const float *trust, const upsample::Scores &later,
             const float *later_path, const float *later_trust, float share, float *out);

}  // namespace motion
