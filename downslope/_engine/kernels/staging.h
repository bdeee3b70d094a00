// Tiles of tensors in the computing type C (float or double), read from and written to what is stored.
//
// `start` is the row-major index of the tile's first element in the tensor and `n` the number of elements. `layout` is
// null for a tensor that is dense in row-major order, else {ndim, sizes..., strides in elements...}; `base` points to
// the element at index 0. Strides may be 0 for loads (an expanded tensor).

namespace ds {

namespace detail {

DS_INLINE float from_half(u16 h) {
    u32 magnitude = h & 0x7fffu;
    float value = bits<float>(magnitude << 13) * 0x1p112f;
    u32 finite = bits<u32>(value), special = (magnitude << 13) | 0x7f800000u;
    return bits<float>((magnitude >= 0x7c00u ? special : finite) | u32(h & 0x8000u) << 16);
}

DS_INLINE u16 to_half(float x) {
    u32 raw = bits<u32>(x), magnitude = raw & 0x7fffffffu;
    u32 small = bits<u32>(bits<float>(magnitude) + 0.5f) - 0x3f000000u;
    u32 normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    u32 half = magnitude < 0x38800000u ? small : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;
    half = magnitude > 0x7f800000u ? 0x7e00u : half;
    return u16(half | (raw >> 16 & 0x8000u));
}

DS_INLINE u16 to_brain(float x) {
    u32 raw = bits<u32>(x);
    u32 rounded = (raw + 0x7fffu + (raw >> 16 & 1u)) >> 16;
    return u16(isnan(x) ? 0x7fc0u : rounded);
}

}  // namespace detail

// Storage formats. Writing rounds to nearest, ties to even; a double goes through float on its way to 16 bits, as in
// torch.
struct f64 {
    using stored = double;
    static constexpr bool blockwise = false;
    static DS_INLINE double read(double x) { return x; }
    static DS_INLINE double write(double x) { return x; }
};
struct f32 {
    using stored = float;
    static constexpr bool blockwise = false;
    static DS_INLINE float read(float x) { return x; }
    template <class C>
    static DS_INLINE float write(C x) { return float(x); }
};
struct bf16 {
    using stored = u16;
    static constexpr bool blockwise = false;
    static DS_INLINE float read(u16 x) { return bits<float>(u32(x) << 16); }
    template <class C>
    static DS_INLINE u16 write(C x) { return detail::to_brain(float(x)); }
};
struct f16 {
    using stored = u16;
    static constexpr bool blockwise = false;
    static DS_INLINE float read(u16 x) { return detail::from_half(x); }
    template <class C>
    static DS_INLINE u16 write(C x) { return detail::to_half(float(x)); }
};

// The random 16 bits of an element: a hash of the stream's key and of the element's index in the whole tensor.
DS_INLINE u32 noise(u32 key, u32 low, u32 high) {
    u32 h = (low * 0x9e3779b1u) ^ key ^ (high * 0x85ebca77u);
    h = (h ^ h >> 16) * 0x7feb352du;
    h = (h ^ h >> 15) * 0x846ca68bu;
    return (h ^ h >> 16) & 0xffffu;
}

namespace detail {

DS_INLINE u16 to_brain_stochastic(float x, u32 random) {
    u32 raw = bits<u32>(x);
    return u16(isnan(x) ? 0x7fc0u : (isfinite(x) ? raw + random : raw) >> 16);
}

// Calls run(offset in elements, stride, first, count) for each run of the tile along the last dimension.
template <class Run>
DS_INLINE void each_run(const i64* layout, i64 start, i64 n, Run run) {
    const i64 ndim = layout[0], *sizes = layout + 1, *strides = sizes + ndim;
    const i64 last = ndim - 1;
    i64 position[64], offset = 0, rest = start;
    for (i64 d = last; d >= 0; --d) {
        position[d] = rest % sizes[d];
        rest /= sizes[d];
        offset += position[d] * strides[d];
    }
    for (i64 first = 0; first < n;) {
        i64 left = ndim ? sizes[last] - position[last] : 1, count = left < n - first ? left : n - first;
        run(offset, ndim ? strides[last] : i64(1), first, count);
        first += count;
        if (first >= n) break;
        offset -= position[last] * strides[last];
        position[last] = 0;
        for (i64 d = last - 1; d >= 0; --d) {
            offset += strides[d];
            if (++position[d] < sizes[d]) break;
            offset -= sizes[d] * strides[d];
            position[d] = 0;
        }
    }
}

}  // namespace detail

namespace detail {

// Calls run(offset, stride, first, count) for each run of a tile.
template <class Run>
DS_INLINE void all_runs(const i64* layout, i64 start, i64 n, Run run) {
    if (layout)
        each_run(layout, start, n, run);
    else
        run(start, 1, 0, n);
}

}  // namespace detail

// Asks for n elements before they are needed; they may lie past the end of a tensor. While a tile is coded the memory
// would stand idle: asking for the next tile's dense streams just before that makes 8-bit Adam a quarter faster.
template <class C>
DS_INLINE void prefetch(const C* from, i64 n) {
    for (i64 i = 0; i < n; i += 64 / i64(sizeof(C))) __builtin_prefetch(from + i);
}

// out[i] = element start + i of the tensor, for i < n; S is the format of what is stored.
template <class C, class S>
static void load(const void* base, const i64* layout, i64 start, i64 n, C* __restrict out) {
    if constexpr (S::blockwise) {
        S::decode(*static_cast<const LowBit*>(base), start, n, out);
    } else {
        const auto* from = static_cast<const typename S::stored*>(base);
        detail::all_runs(layout, start, n, [=](i64 offset, i64 stride, i64 first, i64 count) {
            const auto* __restrict line = from + offset;
            C* __restrict tile = out + first;
            if (stride == 1) {
#pragma omp simd
                for (i64 i = 0; i < count; ++i) tile[i] = C(S::read(line[i]));
            } else {
                for (i64 i = 0; i < count; ++i) tile[i] = C(S::read(line[i * stride]));
            }
        });
    }
}

// The element start + i of the tensor = in[i], for i < n.
template <class C, class S>
static void store(void* base, const i64* layout, i64 start, i64 n, const C* __restrict in) {
    if constexpr (S::blockwise) {
        S::encode(*static_cast<const LowBit*>(base), start, n, in);
    } else {
        auto* to = static_cast<typename S::stored*>(base);
        detail::all_runs(layout, start, n, [=](i64 offset, i64 stride, i64 first, i64 count) {
            auto* __restrict line = to + offset;
            const C* __restrict tile = in + first;
            if (stride == 1) {
#pragma omp simd
                for (i64 i = 0; i < count; ++i) line[i] = S::write(tile[i]);
            } else {
                for (i64 i = 0; i < count; ++i) line[i * stride] = S::write(tile[i]);
            }
        });
    }
}

// As store<C, bf16>, but rounded away from 0 with a chance equal to the part cut off. `index` is the row-major index of
// the tile's first element in the whole tensor, of which this process may hold a shard.
template <class C>
static void store_stochastic(void* base, const i64* layout, i64 start, i64 n, const C* __restrict in, u32 key,
                             u64 index) {
    u16* to = static_cast<u16*>(base);
    detail::all_runs(layout, start, n, [=](i64 offset, i64 stride, i64 first, i64 count) {
        for (i64 done = 0; done < count;) {
            u64 at = index + u64(first + done);
            u32 low = u32(at), high = u32(at >> 32);
            i64 room = i64(0x100000000) - i64(low), part = count - done < room ? count - done : room;
            u16* __restrict line = to + offset + done * stride;
            const C* __restrict tile = in + first + done;
            if (stride == 1) {
#pragma omp simd
                for (i64 i = 0; i < part; ++i)
                    line[i] = detail::to_brain_stochastic(float(tile[i]), noise(key, low + u32(i), high));
            } else {
                for (i64 i = 0; i < part; ++i)
                    line[i * stride] = detail::to_brain_stochastic(float(tile[i]), noise(key, low + u32(i), high));
            }
            done += part;
        }
    });
}

}  // namespace ds
