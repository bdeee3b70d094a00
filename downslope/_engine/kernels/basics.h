// Integer types, and the maths that is exact or correctly rounded. Inline and free of branches, for loops under
// `#pragma omp simd`. Special values (NaN, infinities, signed zeros) give what torch gives on the CPU.

#define DS_INLINE inline __attribute__((always_inline))

namespace ds {

using i32 = __INT32_TYPE__;
using i64 = __INT64_TYPE__;
using u8 = __UINT8_TYPE__;
using u16 = __UINT16_TYPE__;
using u32 = __UINT32_TYPE__;
using u64 = __UINT64_TYPE__;

// The same bytes as another type of the same size.
template <class To, class From>
DS_INLINE To bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "types of one size");
    To y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}

DS_INLINE float sqrt(float x) { return __builtin_sqrtf(x); }
DS_INLINE double sqrt(double x) { return __builtin_sqrt(x); }
DS_INLINE float floor(float x) { return __builtin_floorf(x); }
DS_INLINE double floor(double x) { return __builtin_floor(x); }
DS_INLINE float abs(float x) { return __builtin_fabsf(x); }
DS_INLINE double abs(double x) { return __builtin_fabs(x); }
DS_INLINE float copysign(float x, float sign) { return __builtin_copysignf(x, sign); }
DS_INLINE double copysign(double x, double sign) { return __builtin_copysign(x, sign); }

template <class C>
DS_INLINE C where(bool condition, C yes, C no) { return condition ? yes : no; }
template <class C>
DS_INLINE bool isnan(C x) { return x != x; }
template <class C>
DS_INLINE bool isfinite(C x) { return x - x == C(0); }
template <class C>
DS_INLINE C square(C x) { return x * x; }
template <class C>
DS_INLINE C reciprocal(C x) { return C(1) / x; }
template <class C>
DS_INLINE C rsqrt(C x) { return C(1) / sqrt(x); }

// -1, 0 or 1; 0 for NaN, as torch has it.
template <class C>
DS_INLINE C sign(C x) { return C(x > C(0)) - C(x < C(0)); }

// The greater or smaller one; NaN if either is.
template <class C>
DS_INLINE C maximum(C a, C b) {
    C larger = a > b ? a : b;
    return isnan(a) ? a : larger;  // as one nested condition, a loop with two of these stays scalar
}
template <class C>
DS_INLINE C minimum(C a, C b) {
    C smaller = a < b ? a : b;
    return isnan(a) ? a : smaller;
}

// min(max(x, low), high); NaN if any of the three is.
template <class C>
DS_INLINE C clamp(C x, C low, C high) {
    C y = low > x || isnan(low) ? low : x;
    return high < y || isnan(high) ? (isnan(y) ? y : high) : y;
}

}  // namespace ds
