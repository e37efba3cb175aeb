// Views of images from their bytes and recipes, step by step as `datasets` makes them on the CPU, to its bits: nothing is
// fused that it rounds apart, and sums that depend on their order are made in its order. Recipes are words, see
// images/mod.rs.
#include "common.cuh"

typedef unsigned char u8;

enum RecipeWord : u32 {
    IMAGE_BEGIN = 0,
    IMAGE_WIDTH = 2,
    CROP_LEFT = 4,
    CROP_TOP = 5,
    CROP_WIDTH = 6,
    CROP_HEIGHT = 7,
    SINE = 8,
    COSINE = 10,
    ROTATED = 12,
    MIRRORED = 13,
    STEPS = 14,
    PARTS = 15,
    FACTORS = 19,
    ERASED_LEFT = 23,
    ERASED_TOP = 24,
    ERASED_WIDTH = 25,
    ERASED_HEIGHT = 26,
    GRID = 27,
    ORDER = 28,
    RECIPE_WORDS = 30,
};
enum JitterPart : u32 { BRIGHTNESS = 0, CONTRAST = 1, SATURATION = 2, HUE = 3 };

// Weights of a resize have 22 bits after the point.
#define WEIGHT_BITS 22

__device__ inline const u32 *recipe_of(const u32 *recipes, u32 view) { return recipes + (u64)view * RECIPE_WORDS; }

// The weight of pixel `k` for a pixel of the result whose centre lies at `center`.
__device__ inline double triangle(u32 k, double center, double reduction) {
    double x = __dmul_rn(k - center + 0.5, 1.0 / reduction);
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

// Pixels and weights of every column and row of the views: `windows` holds the first pixel and how many, [view, axis, x, 2],
// `weights` is [view, axis, tap, x]. A thread takes one column or row.
extern "C" __global__ void augment_taps(const u32 *recipes, u32 *windows, u32 *weights, u32 n, u32 size, u32 most) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    u32 x = at % size, axis = at / size;
    u32 input = recipe_of(recipes, axis / 2)[axis % 2 ? CROP_HEIGHT : CROP_WIDTH];
    double scale = (double)input / size, reduction = scale > 1.0 ? scale : 1.0;
    double center = __dmul_rn(x + 0.5, scale);
    double from = center - reduction + 0.5, to = center + reduction + 0.5;
    u32 low = from > 0.0 ? (u32)from : 0, high = to < input ? (u32)to : input;
    double sum = 0.0;
    for (u32 k = low; k < high; k++) sum += triangle(k, center, reduction);
    for (u32 k = low; k < high; k++) {
        double weight = triangle(k, center, reduction), share = sum == 0.0 ? weight : __dmul_rn(weight, 1.0 / sum);
        weights[((u64)axis * most + k - low) * size + x] = (u32)(__dmul_rn(share, 1u << WEIGHT_BITS) + 0.5);
    }
    windows[2 * at] = low, windows[2 * at + 1] = high - low;
}

// The weighted sum of RGB pixels that are `stride` bytes apart, rounded to levels.
__device__ inline void resample(const u8 *pixels, u64 stride, const u32 *weights, u32 count, u32 size, u8 *out) {
    u32 sums[3] = {1u << (WEIGHT_BITS - 1), 1u << (WEIGHT_BITS - 1), 1u << (WEIGHT_BITS - 1)};
    for (u32 k = 0; k < count; k++, pixels += stride)
        for (u32 c = 0; c < 3; c++) sums[c] += pixels[c] * weights[k * size];
    for (u32 c = 0; c < 3; c++) {
        u32 level = sums[c] >> WEIGHT_BITS;
        out[c] = (u8)(level < 255 ? level : 255);
    }
}

// The crops' rows at the width of the views: `middle` is [view, rows, size, 3], of which a view uses as many rows as its crop
// has. The blocks of a view take `rows * size` pixels.
extern "C" __global__ void augment_across(const u8 *pixels, const u32 *recipes, const u32 *windows, const u32 *weights,
                                          u8 *middle, u32 rows, u32 size, u32 most) {
    u32 each = (rows * size + blockDim.x - 1) / blockDim.x, view = blockIdx.x / each;
    u32 at = blockIdx.x % each * blockDim.x + threadIdx.x, row = at / size, x = at % size;
    const u32 *recipe = recipe_of(recipes, view);
    if (row >= recipe[CROP_HEIGHT]) return;
    const u32 *window = windows + 2 * ((u64)view * 2 * size + x);
    u64 begin = (u64)recipe[IMAGE_BEGIN + 1] << 32 | recipe[IMAGE_BEGIN];
    u64 first = (u64)(recipe[CROP_TOP] + row) * recipe[IMAGE_WIDTH] + recipe[CROP_LEFT] + window[0];
    resample(pixels + begin + first * 3, 3, weights + (u64)view * 2 * most * size + x, window[1], size,
             middle + ((u64)view * rows * size + at) * 3);
}

// And at their height: `cut` is [view, size, size, 3].
extern "C" __global__ void augment_down(const u8 *middle, const u32 *windows, const u32 *weights, u8 *cut, u32 n, u32 rows,
                                        u32 size, u32 most) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    u32 x = at % size, y = at / size % size, view = at / (size * size);
    const u32 *window = windows + 2 * (((u64)view * 2 + 1) * size + y);
    resample(middle + (((u64)view * rows + window[0]) * size + x) * 3, (u64)size * 3,
             weights + ((u64)view * 2 + 1) * most * size + y, window[1], size, cut + (u64)at * 3);
}

__device__ inline float unit_range(float x) { return x < 0.0f ? 0.0f : x > 1.0f ? 1.0f : x; }

struct Colour {
    float r, g, b;

    __device__ float grey() const { return __fmul_rn(0.2989f, r) + __fmul_rn(0.587f, g) + __fmul_rn(0.114f, b); }
    // factor · x + shift, in range.
    __device__ void stretch(float factor, float shift) {
        r = unit_range(__fmul_rn(factor, r) + shift);
        g = unit_range(__fmul_rn(factor, g) + shift);
        b = unit_range(__fmul_rn(factor, b) + shift);
    }
    // The hue, turned by a share of the colour circle.
    __device__ void turn(float share) {
        float most = fmaxf(fmaxf(r, g), b), range = most - fminf(fminf(r, g), b);
        float hue = 0.0f, saturation = 0.0f;
        if (range != 0.0f) {
            float x = (most - r) / range, y = (most - g) / range, z = (most - b) / range;
            float sixths = most == r ? z - y : most == g ? 2.0f + x - z : 4.0f + y - x;
            hue = __fmul_rn(sixths, 1.0f / 6.0f) + 1.0f;
            hue = hue - floorf(hue);
            saturation = range / most;
        }
        hue = hue + share;
        hue = hue - floorf(hue);
        float place = __fmul_rn(hue, 6.0f), sector = floorf(place), within = place - sector;
        float low = unit_range(__fmul_rn(most, 1.0f - saturation));
        float falling = unit_range(__fmul_rn(most, 1.0f - __fmul_rn(saturation, within)));
        float rising = unit_range(__fmul_rn(most, 1.0f - __fmul_rn(saturation, 1.0f - within)));
        u32 s = (u32)sector;
        // 6 where rounding reaches the end of the circle.
        r = s == 1 ? falling : s == 2 || s == 3 ? low : s == 4 ? rising : most;
        g = s == 1 || s == 2 ? most : s == 3 ? falling : s == 4 || s == 5 ? low : rising;
        b = s == 2 ? rising : s == 3 || s == 4 ? most : s == 5 ? falling : low;
    }
};

// A pixel of a view after the flip and the first `steps` steps of its jitter; `shift` is what its contrast adds.
__device__ inline Colour jittered(const u8 *cut, const u32 *recipe, u32 size, u32 y, u32 x, u32 steps, float shift) {
    const u8 *pixel = cut + ((u64)y * size + (recipe[MIRRORED] ? size - 1 - x : x)) * 3;
    Colour colour = {pixel[0] / 255.0f, pixel[1] / 255.0f, pixel[2] / 255.0f};
    for (u32 k = 0; k < steps; k++) {
        float factor = __uint_as_float(recipe[FACTORS + k]);
        u32 part = recipe[PARTS + k];
        if (part == HUE) colour.turn(factor);
        else colour.stretch(factor, part == BRIGHTNESS ? 0.0f : part == CONTRAST ? shift : __fmul_rn(1.0f - factor, colour.grey()));
    }
    return colour;
}

// What the contrast of each view adds: (1 - factor) · mean grey. A block takes a view. Grey levels are summed in float64. Where
// all of them are whole multiples of `1 / unit`, no sum is rounded, whatever the order; else one thread adds them in the
// CPU's order.
extern "C" __global__ void augment_contrast(const u8 *cut, const u32 *recipes, float *shifts, u32 size, double unit) {
    SHARED_MEMORY(room);
    const u32 *recipe = recipe_of(recipes, blockIdx.x);
    u32 steps = 0, area = size * size;
    while (steps < recipe[STEPS] && recipe[PARTS + steps] != CONTRAST) steps++;
    if (steps == recipe[STEPS]) return;
    const u8 *pixels = cut + (u64)blockIdx.x * area * 3;
    double total = 0.0, rounded = 0.0;
    for (u32 at = threadIdx.x; at < area; at += blockDim.x) {
        double grey = jittered(pixels, recipe, size, at / size, at % size, steps, 0.0f).grey();
        total += grey;
        if (grey * unit != floor(grey * unit)) rounded = 1.0;
    }
    total = block_sum(total, room);
    if (block_sum(rounded, room) > 0.0) {
        double *levels = room + 32;
        total = 0.0;
        for (u32 first = 0; first < area; first += blockDim.x) {
            u32 at = first + threadIdx.x;
            if (at < area) levels[threadIdx.x] = jittered(pixels, recipe, size, at / size, at % size, steps, 0.0f).grey();
            __syncthreads();
            u32 count = area - first < blockDim.x ? area - first : blockDim.x;
            if (threadIdx.x == 0)
                for (u32 k = 0; k < count; k++) total += levels[k];
            __syncthreads();
        }
    }
    float factor = __uint_as_float(recipe[FACTORS + steps]);
    if (threadIdx.x == 0) shifts[blockIdx.x] = __fmul_rn(1.0f - factor, (float)(total / area));
}

struct Statistics {
    float mean[3], deviation[3];
};

// Adds weight · the normalised pixel to `value`.
__device__ inline void add_pixel(const u8 *cut, const u32 *recipe, float shift, const Statistics &norm, u32 size, u32 y, u32 x,
                                 float weight, float *value) {
    Colour colour = jittered(cut, recipe, size, y, x, recipe[STEPS], shift);
    float levels[3] = {colour.r, colour.g, colour.b};
    for (u32 c = 0; c < 3; c++) value[c] += __fmul_rn(weight, (levels[c] - norm.mean[c]) / norm.deviation[c]);
}

// The rotation: the weighted sum of four pixels, those outside are 0.
__device__ inline void add_rotated(const u8 *cut, const u32 *recipe, float shift, const Statistics &norm, u32 size, u32 y, u32 x,
                                   float *value) {
    double sine = *(const double *)(recipe + SINE), cosine = *(const double *)(recipe + COSINE);
    double centre = (size - 1.0) / 2.0, dx = x - centre, dy = y - centre;
    double across = __dmul_rn(cosine, dx) - __dmul_rn(sine, dy) + centre;
    double down = __dmul_rn(sine, dx) + __dmul_rn(cosine, dy) + centre;
    double left = floor(across), top = floor(down);
    float wx = (float)(across - left), wy = (float)(down - top);
    for (u32 k = 0; k < 4; k++) {
        double column = left + k % 2, row = top + k / 2;
        if (!(column >= 0.0 && row >= 0.0 && column < size && row < size)) continue;
        float weight = __fmul_rn(k % 2 ? wx : 1.0f - wx, k / 2 ? wy : 1.0f - wy);
        add_pixel(cut, recipe, shift, norm, size, (u32)row, (u32)column, weight, value);
    }
}

// The rest of the recipe, backwards from a pixel of the result: which tile it comes from, whether it is erased, the rotation,
// the flip, the jitter and the normalisation. `out` is [view, 3, size, size].
extern "C" __global__ void augment_finish(const u8 *cut, const u32 *recipes, const float *shifts, float *out, u32 n, u32 size,
                                          double mean_r, double mean_g, double mean_b, double deviation_r,
                                          double deviation_g, double deviation_b) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    Statistics norm = {{(float)mean_r, (float)mean_g, (float)mean_b},
                       {(float)deviation_r, (float)deviation_g, (float)deviation_b}};
    u32 area = size * size, view = at / area, pixel = at % area, y = pixel / size, x = pixel % size;
    const u32 *recipe = recipe_of(recipes, view);
    u32 grid = recipe[GRID], tile = size / grid;
    if (grid > 1 && y < tile * grid && x < tile * grid) {
        u32 from = recipes[recipe[ORDER] + y / tile * grid + x / tile];
        y = from / grid * tile + y % tile, x = from % grid * tile + x % tile;
    }
    float value[3] = {0.0f, 0.0f, 0.0f};
    // Columns left of the rectangle wrap around to large numbers.
    if (x - recipe[ERASED_LEFT] >= recipe[ERASED_WIDTH] || y - recipe[ERASED_TOP] >= recipe[ERASED_HEIGHT]) {
        const u8 *pixels = cut + (u64)view * area * 3;
        if (recipe[ROTATED]) add_rotated(pixels, recipe, shifts[view], norm, size, y, x, value);
        else add_pixel(pixels, recipe, shifts[view], norm, size, y, x, 1.0f, value);
    }
    for (u32 c = 0; c < 3; c++) out[((u64)view * 3 + c) * area + pixel] = value[c];
}
