// The points that the field lives on, in the order in which they are visited: tile by tile, so that what
// they touch of a lattice stays in cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace crf {

constexpr int kTile = 16;

struct Order {
    int height, width;
    std::vector<uint16_t> row, column;  // of each point, in the order of visits
    std::vector<size_t> tile;           // where each tile begins, and the end
    std::vector<size_t> part;           // the first tile of each thread's share, and the end
    std::vector<float> count;           // pixels that each point stands for; empty where all are points
    std::vector<uint8_t> step;          // side of the square of pixels that a point stands for; empty likewise

    // All pixels, tiles in columns, pixels of a tile in columns.
    Order(int height_, int width_, int parts) : height(height_), width(width_) {
        row.reserve(size_t(height) * width);
        column.reserve(size_t(height) * width);
        for (int left = 0; left < width; left += kTile)
            for (int top = 0; top < height; top += kTile) {
                tile.push_back(row.size());
                for (int x = left; x < std::min(left + kTile, width); ++x)
                    for (int y = top; y < std::min(top + kTile, height); ++y) {
                        row.push_back(uint16_t(y));
                        column.push_back(uint16_t(x));
                    }
            }
        tile.push_back(row.size());
        // Shares are whole columns of tiles: threads then touch along the picture's height alone.
        const size_t down = size_t(height + kTile - 1) / kTile, across = size_t(width + kTile - 1) / kTile;
        for (int i = 0; i <= parts; ++i) part.push_back(across * i / parts * down);
    }
    size_t size() const { return row.size(); }
    size_t tiles() const { return tile.size() - 1; }
    size_t pixels() const { return size_t(height) * width; }
};

}  // namespace crf
