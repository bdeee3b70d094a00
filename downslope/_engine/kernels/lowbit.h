// State at 8 and 4 bits, coded by blocks of consecutive elements, as the module codecs of the engine defines it:
//
//     encode: scale = max |x| of the block;  code = the number of thresholds below x / scale
//     decode: x = value[code] * scale
//
// A block with a number that is not finite, or with a negative one where the values have no sign, keeps a scale that is
// not finite. Codes of 4 bits stand two in a byte, the even element in the low half. Tiles start at a multiple of the
// block.

namespace ds {

// What the stream's pointer points to, in place of a tensor's elements.
struct LowBit {
    u8* codes;
    float* scales;
    const void* book;  // made by the module codebook
    i64 block;         // elements that share a scale, an even number
};

namespace detail {

// How the code of a ratio is found. The bits of a float, those below the sign flipped where it is set, are integers in
// the order of the floats. Between -low and low there is no threshold: that range is folded away. What is left is cut
// into cells of 2^shift integers, so small that each holds one threshold at most: a cell is (threshold << 8 | code),
// the threshold counted from the start of the cell, and the code that of the numbers up to it. Where the CPU permutes
// bytes, straight lines take the place of the cells.
struct Book8 {
    i32 low, shift, zero_cell, zero_code, has_sign, has_lines, unused[10];
    float values[256];
    u8 planes[4][256];            // the bytes of the values: of each the first, the second, ...
    u8 threshold_planes[4][256];  // the same of the thresholds, the last one infinite
    u16 breaks[32], slopes[2][32], offsets[2][32];
    u32 cells[];
};

struct Book4 {
    i32 zero_code, has_sign, unused[14];
    float thresholds[16];
    float pairs[256][2];  // the two values of a byte of codes
};

// The scale of n elements, and whether it can be divided by.
struct Scale {
    float value;
    bool usable;
};

template <class C>
static inline Scale scale_of(const C* __restrict x, i64 n, bool has_sign) {
    u32 largest = 0, negative = 0;
#pragma omp simd reduction(max : largest) reduction(| : negative)
    for (i64 i = 0; i < n; ++i) {
        u32 raw = bits<u32>(float(x[i])), magnitude = raw & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
        negative |= raw > 0x80000000u ? 1u : 0u;
    }
    float value = bits<float>(largest);
    value = isnan(value) || (negative && !has_sign) ? __builtin_nanf("") : value;
    return {value, isfinite(value) && value > 0.0f};
}

#if defined(__AVX512VBMI__) && defined(__GNUC__) && !defined(__clang__)
#define DS_BYTE_PERMUTES 1

typedef u8 Bytes __attribute__((vector_size(64)));
typedef __INT8_TYPE__ SignedBytes __attribute__((vector_size(64)));
typedef u16 Halves __attribute__((vector_size(64)));
typedef i32 Words __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));

template <class Vector>
DS_INLINE Vector read(const void* from) {
    Vector v;
    __builtin_memcpy(&v, from, sizeof v);
    return v;
}

// Byte `which` of 64 words.
DS_INLINE Bytes narrow(const Words* words, int which) {
    Bytes fourth = {}, join = {};
    for (int i = 0; i < 32; ++i) fourth[i] = u8(4 * i + which), join[i] = u8(i), join[32 + i] = u8(64 + i);
    Bytes low = __builtin_shuffle((Bytes)words[0], (Bytes)words[1], fourth);
    Bytes high = __builtin_shuffle((Bytes)words[2], (Bytes)words[3], fourth);
    return __builtin_shuffle(low, high, join);
}

// The floats that 64 codes stand for, byte by byte: permutations of bytes beat gathers.
DS_INLINE void look_up(const u8 (*planes)[256], Bytes code, Floats* out) {
    Bytes byte[4];
    for (int k = 0; k < 4; ++k) {
        const u8* plane = planes[k];
        Bytes lower = __builtin_shuffle(read<Bytes>(plane), read<Bytes>(plane + 64), code);
        Bytes upper = __builtin_shuffle(read<Bytes>(plane + 128), read<Bytes>(plane + 192), code);
        byte[k] = (SignedBytes)code < 0 ? upper : lower;
    }
    Bytes first, second;
    Halves third, fourth;
    for (int i = 0; i < 64; ++i) first[i] = u8(i / 2 + i % 2 * 64), second[i] = u8(32 + i / 2 + i % 2 * 64);
    for (int i = 0; i < 32; ++i) third[i] = u16(i / 2 + i % 2 * 32), fourth[i] = u16(16 + i / 2 + i % 2 * 32);
    Halves a = (Halves)__builtin_shuffle(byte[0], byte[1], first);
    Halves b = (Halves)__builtin_shuffle(byte[2], byte[3], first);
    Halves c = (Halves)__builtin_shuffle(byte[0], byte[1], second);
    Halves d = (Halves)__builtin_shuffle(byte[2], byte[3], second);
    out[0] = (Floats)__builtin_shuffle(a, b, third), out[1] = (Floats)__builtin_shuffle(a, b, fourth);
    out[2] = (Floats)__builtin_shuffle(c, d, third), out[3] = (Floats)__builtin_shuffle(c, d, fourth);
}

DS_INLINE void decode64(const Book8& book, const u8* codes, float scale, float* out) {
    Floats values[4];
    look_up(book.planes, read<Bytes>(codes), values);
    for (int k = 0; k < 4; ++k) {
        Floats scaled = values[k] * scale;
        __builtin_memcpy(out + 16 * k, &scaled, sizeof scaled);
    }
}

#ifdef __has_builtin
#if __has_builtin(__builtin_ia32_pmulhuw512_mask)
#define DS_LINES 1
// A key is 5 bits for the octave of |ratio| and 10 of its mantissa. In each octave two straight lines, up to a break
// and above it, say the code of a key, or the one before; the threshold between the two decides.
DS_INLINE void encode64(const Book8& book, const float* x, float scale, u8* codes) {
    Floats ratio[4], threshold[4];
    Words word[4];
    Halves guess[2], even = {};
    Bytes odd = {};
    for (int i = 0; i < 32; ++i) even[i] = u16(2 * i);
    for (int i = 0; i < 64; ++i) odd[i] = u8(2 * i + 1);
    for (int k = 0; k < 4; ++k) {
        ratio[k] = read<Floats>(x + 16 * k) / scale;
        Words key = ((Words)ratio[k] & 0x7fffffff) - ((127 - 31) << 23);
        word[k] = (key > 0 ? key : 0) >> 13;
    }
    for (int k = 0; k < 2; ++k) {
        typedef short Signed __attribute__((vector_size(64)));
        Halves key = __builtin_shuffle((Halves)word[2 * k], (Halves)word[2 * k + 1], even), octave = key >> 10;
        auto above = key > __builtin_shuffle(read<Halves>(book.breaks), octave);
        Halves slope = above ? __builtin_shuffle(read<Halves>(book.slopes[1]), octave)
                             : __builtin_shuffle(read<Halves>(book.slopes[0]), octave);
        Halves offset = above ? __builtin_shuffle(read<Halves>(book.offsets[1]), octave)
                              : __builtin_shuffle(read<Halves>(book.offsets[0]), octave);
        Signed product = __builtin_ia32_pmulhuw512_mask((Signed)(key << 6), (Signed)slope, Signed{}, ~0u);
        guess[k] = offset + (Halves)product;
    }
    Bytes steps = __builtin_shuffle((Bytes)guess[0], (Bytes)guess[1], odd);  // from the code of 0
    for (int k = 0; k < 4; ++k) word[k] = (Words)ratio[k];
    const u8 up = u8(book.zero_code), down = u8(up ? up - 1 : 0);
    Bytes code = (SignedBytes)narrow(word, 3) < 0 ? down - (steps < down ? steps : down) : up + steps;
    look_up(book.threshold_planes, code, threshold);
    for (int k = 0; k < 4; ++k) word[k] = ratio[k] > threshold[k];
    code -= narrow(word, 0);
    __builtin_memcpy(codes, &code, sizeof code);
}
#endif
#endif
#else
#define DS_BYTE_PERMUTES 0
#endif

template <class C>
static inline void encode8(const Book8& book, const C* __restrict x, i64 n, float scale, u8* __restrict codes) {
    const u32* __restrict cells = book.cells + book.zero_cell;
    const i32 low = book.low, shift = book.shift;
    const u32 rest = (1u << shift) - 1u;
    i64 done = 0;
#ifdef DS_LINES
    for (; book.has_lines && done + 64 <= n; done += 64) {
        if constexpr (sizeof(C) == sizeof(float)) {
            encode64(book, x + done, scale, codes + done);
        } else {
            alignas(64) float values[64];
            for (i64 i = 0; i < 64; ++i) values[i] = float(x[done + i]);
            encode64(book, values, scale, codes + done);
        }
    }
#endif
#pragma omp simd
    for (i64 i = done; i < n; ++i) {
        i32 order = bits<i32>(float(x[i]) / scale);
        order ^= (order >> 31) & 0x7fffffff;
        i32 middle = order < low ? order : low;
        i32 folded = order - (middle > -low ? middle : -low);
        u32 cell = cells[folded >> shift];
        codes[i] = u8((cell & 255u) + ((u32(folded) & rest) > cell >> 8 ? 1u : 0u));
    }
}

template <class C>
static inline void decode8(const Book8& book, const u8* __restrict codes, i64 n, float scale, C* __restrict out) {
    i64 done = 0;
#if DS_BYTE_PERMUTES
    for (; done + 64 <= n; done += 64) {
        alignas(64) float values[64];
        decode64(book, codes + done, scale, values);
#pragma omp simd
        for (i64 i = 0; i < 64; ++i) out[done + i] = C(values[i]);
    }
#endif
#pragma omp simd
    for (i64 i = done; i < n; ++i) out[i] = C(book.values[codes[i]] * scale);
}

template <class C>
static inline void encode4(const Book4& book, const C* __restrict x, i64 n, float scale, u8* __restrict codes) {
    constexpr i64 piece = 256;
    for (i64 done = 0; done < n; done += piece) {
        i64 count = n - done < piece ? n - done : piece;
        alignas(64) u16 each[piece / 2];
        u8* one = reinterpret_cast<u8*>(each);
        if (count < piece) each[count / 2] = 0;
#pragma omp simd
        for (i64 i = 0; i < count; ++i) {
            float ratio = float(x[done + i]) / scale;
            u32 code = 0;
            for (int k = 0; k < 15; ++k) code += ratio > book.thresholds[k] ? 1u : 0u;
            one[i] = u8(code);
        }
        u8* __restrict packed = codes + done / 2;
#pragma omp simd
        for (i64 i = 0; i < (count + 1) / 2; ++i) packed[i] = u8(one[2 * i] | one[2 * i + 1] << 4);
    }
}

template <class C>
static inline void decode4(const Book4& book, const u8* __restrict codes, i64 n, float scale, C* __restrict out) {
    constexpr i64 piece = 256;
    for (i64 done = 0; done < n; done += piece) {
        i64 count = n - done < piece ? n - done : piece;
        alignas(64) float values[piece];
        for (i64 i = 0; i < (count + 1) / 2; ++i)
            __builtin_memcpy(values + 2 * i, book.pairs[codes[done / 2 + i]], sizeof book.pairs[0]);
#pragma omp simd
        for (i64 i = 0; i < count; ++i) out[done + i] = C(values[i] * scale);
    }
}

// What 8 and 4 bits do with one block; `at` is where the code of an element lies.
struct Codec8 {
    using Book = Book8;
    static inline i64 at(i64 element) { return element; }
    static inline void zeros(const Book& book, i64 n, u8* codes) { __builtin_memset(codes, book.zero_code, u64(n)); }
    template <class C>
    static inline void encode(const Book& book, const C* x, i64 n, float scale, u8* codes) {
        encode8(book, x, n, scale, codes);
    }
    template <class C>
    static inline void decode(const Book& book, const u8* codes, i64 n, float scale, C* out) {
        decode8(book, codes, n, scale, out);
    }
};

struct Codec4 {
    using Book = Book4;
    static inline i64 at(i64 element) { return element / 2; }
    static inline void zeros(const Book& book, i64 n, u8* codes) {
        __builtin_memset(codes, book.zero_code * 17, u64(n + 1) / 2);
        if (n % 2) codes[n / 2] = u8(book.zero_code);
    }
    template <class C>
    static inline void encode(const Book& book, const C* x, i64 n, float scale, u8* codes) {
        encode4(book, x, n, scale, codes);
    }
    template <class C>
    static inline void decode(const Book& book, const u8* codes, i64 n, float scale, C* out) {
        decode4(book, codes, n, scale, out);
    }
};

}  // namespace detail

// Formats for load and store, beside f32 and the others; the layout is always null.
template <class Codec>
struct Blockwise {
    using stored = u8;
    static constexpr bool blockwise = true;

    template <class C>
    static inline void decode(const LowBit& from, i64 start, i64 n, C* out) {
        const auto& book = *static_cast<const typename Codec::Book*>(from.book);
        for (i64 i = 0; i < n; i += from.block)
            Codec::decode(book, from.codes + Codec::at(start + i), n - i < from.block ? n - i : from.block,
                          from.scales[(start + i) / from.block], out + i);
    }

    template <class C>
    static inline void encode(const LowBit& to, i64 start, i64 n, const C* in) {
        const auto& book = *static_cast<const typename Codec::Book*>(to.book);
        for (i64 i = 0; i < n; i += to.block) {
            i64 count = n - i < to.block ? n - i : to.block;
            auto [scale, usable] = detail::scale_of(in + i, count, book.has_sign);
            to.scales[(start + i) / to.block] = scale;
            u8* codes = to.codes + Codec::at(start + i);
            if (usable)
                Codec::encode(book, in + i, count, scale, codes);
            else
                Codec::zeros(book, count, codes);
        }
    }
};

using q8 = Blockwise<detail::Codec8>;
using q4 = Blockwise<detail::Codec4>;

}  // namespace ds
