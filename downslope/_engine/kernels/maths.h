// Elementwise maths for float and double. Each function is inline and free of branches, so that a loop under
// `#pragma omp simd` becomes vector code; a call of the C library would keep the loop scalar.
//
// Special values (NaN, infinities, signed zeros, overflow) give what torch gives on the CPU, and subnormal results are
// returned in full. Largest errors seen, in units of the last place of the exact result, on a machine with a fused
// multiply-add (up to 0.8 more without one):
//
//              exp  expm1  log  log1p  sigmoid  tanh  cos, sin  rsqrt  pow
//     float    1.1  1.6    0.9  1.4    1.5      1.8   1.5       1.5    0.6
//     double   1.1  2.1    0.9  1.4    1.5      1.9   1.8       1.5    1.2
//
// The polynomials are minimax fits made for this file.
//
// Arguments of one call have one type: write C(0.5), not 0.5.

namespace ds {

namespace detail {

template <class C>
struct format;

template <>
struct format<float> {
    using natural = u32;
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float infinity = __builtin_inff(), nan = __builtin_nanf(""), smallest = 0x1p-126f;
    static constexpr float round = 0x1.8p23f;         // added, it leaves a whole number, in the low bits of the sum
    static constexpr natural root_half = 0x3f3504f3;  // sqrt(1/2)
    static constexpr float over_ln2 = 0x1.715476p0f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    static constexpr float exp_low = -104.0f, exp_high = 89.0f, expm1_low = -18.0f;
};

template <>
struct format<double> {
    using natural = u64;
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double infinity = __builtin_inf(), nan = __builtin_nan(""), smallest = 0x1p-1022;
    static constexpr double round = 0x1.8p52;
    static constexpr natural root_half = 0x3fe6a09e667f3bcd;
    static constexpr double over_ln2 = 0x1.71547652b82fep0;
    static constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
    static constexpr double exp_low = -746.0, exp_high = 710.0, expm1_low = -38.0;
};

// a * b + c, in one rounding where the machine does that in one instruction.
#if defined(__FMA__) || defined(__FP_FAST_FMA) || defined(__ARM_FEATURE_FMA)
#define DS_FUSED 1
DS_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DS_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
#define DS_FUSED 0
template <class C>
DS_INLINE C fma(C a, C b, C c) { return a * b + c; }
#endif

// a + b x + c x^2 + ...
template <class C>
DS_INLINE C polynomial(C, C a) { return a; }
template <class C, class... Rest>
DS_INLINE C polynomial(C x, C a, Rest... rest) { return fma(polynomial(x, C(rest)...), x, a); }

// (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2
DS_INLINE float exp_tail(float r) {
    return polynomial(r, 0x1p-1f, 0x1.5554bp-3f, 0x1.555486p-5f, 0x1.12281cp-7f, 0x1.6d9934p-10f);
}
DS_INLINE double exp_tail(double r) {
    return polynomial(r, 0x1.0000000000005p-1, 0x1.555555555555cp-3, 0x1.555555555210fp-5, 0x1.111111110e6e4p-7,
                      0x1.6c16c17f35219p-10, 0x1.a01a01b5d4c0bp-13, 0x1.a019a684000dp-16, 0x1.71ddea0954309p-19,
                      0x1.28a2b3ac18047p-22, 0x1.af76aaed259afp-26);
}

// (log((1 + s) / (1 - s)) - 2 s) / s as a function of z = s^2, for s <= 0.1716
DS_INLINE float log_tail(float z) {
    return z * polynomial(z, 0x1.555556p-1f, 0x1.999a64p-2f, 0x1.243d74p-2f, 0x1.e25ea8p-3f);
}
DS_INLINE double log_tail(double z) {
    return z * polynomial(z, 0x1.5555555555572p-1, 0x1.999999998887cp-2, 0x1.2492493b52fd5p-2, 0x1.c71c56d2be4bap-3,
                          0x1.74655a838724dp-3, 0x1.39b6f1c518ff4p-3, 0x1.2e3e4beb183e1p-3);
}

// (sin(r) - r) / r^3 and (cos(r) - 1 + r^2 / 2) / r^4 as functions of z = r^2, for |r| <= pi / 4
DS_INLINE float sin_tail(float z) { return polynomial(z, -0x1.555546p-3f, 0x1.110762p-7f, -0x1.994e8ep-13f); }
DS_INLINE float cos_tail(float z) { return polynomial(z, 0x1.55554ap-5f, -0x1.6c0c98p-10f, 0x1.9a053ap-16f); }
DS_INLINE double sin_tail(double z) {
    return polynomial(z, -0x1.5555555555549p-3, 0x1.111111110f8b2p-7, -0x1.a01a019c168b3p-13, 0x1.71de357ad1ee6p-19,
                      -0x1.ae5e67fce7c7fp-26, 0x1.5d935cfa8d306p-33);
}
DS_INLINE double cos_tail(double z) {
    return polynomial(z, 0x1.555555555554ep-5, -0x1.6c16c16c15501p-10, 0x1.a01a019cfdb2ap-16, -0x1.27e4f83a8c52ap-22,
                      0x1.1eea09ad4ff71p-29, -0x1.8fbcac4f5cdeep-37);
}

// x = n ln(2) + r. The whole number n also stands in the low bits of `count`, for 2^n.
template <class C>
struct Power {
    C n, r;
    typename format<C>::natural count;
};

template <class C>
DS_INLINE Power<C> reduce(C x) {
    using F = format<C>;
    C shifted = x * F::over_ln2 + F::round, n = shifted - F::round;
    C r = fma(-n, F::ln2_low, fma(-n, F::ln2_high, x));
    return {n, r, bits<typename F::natural>(shifted) - bits<typename F::natural>(F::round)};
}

// 2^n for a normal result
template <class C>
DS_INLINE C power_of_two(typename format<C>::natural n) {
    using F = format<C>;
    return bits<C>((n + F::bias) << F::mantissa);
}

// y 2^n, rounded once even where the result is subnormal or infinite, for |n| < 2 bias
template <class C>
DS_INLINE C scale(C y, typename format<C>::natural n) {
    using F = format<C>;
    typename F::natural half = ((n + 2 * F::bias) >> 1) - F::bias;
    return y * power_of_two<C>(half) * power_of_two<C>(n - half);
}

// x = 2^k (1 + f) with 1 + f from sqrt(1/2) to sqrt(2), for positive, finite and normal x
template <class C>
struct Mantissa {
    C k, f;
    typename format<C>::natural power;  // the bits of k + bias
};

template <class C>
DS_INLINE Mantissa<C> split(C x) {
    using F = format<C>;
    using N = typename F::natural;
    constexpr N one = N(F::bias) << F::mantissa;
    N raw = bits<N>(x), power = (raw - F::root_half + one) >> F::mantissa;
    C m = bits<C>(raw - (power << F::mantissa) + one);
    constexpr C shift = C(N(1) << F::mantissa);
    C k = bits<C>(power | bits<N>(shift)) - (shift + F::bias);
    return {k, m - C(1), power};
}

// log(1 + f) + k ln(2)
template <class C>
DS_INLINE C log_of(C f, C k) {
    using F = format<C>;
    C s = f / (C(2) + f), half = C(0.5) * f * f;
    return fma(k, F::ln2_high, f - (half - fma(s, half + log_tail(s * s), k * F::ln2_low)));
}

}  // namespace detail

template <class C>
DS_INLINE C exp(C x) {
    using F = detail::format<C>;
    x = x < F::exp_low ? F::exp_low : x;
    x = x > F::exp_high ? F::exp_high : x;
    auto [n, r, count] = detail::reduce(x);
    return detail::scale(detail::fma(r * r, detail::exp_tail(r), r) + C(1), count);
}

template <class C>
DS_INLINE C expm1(C x) {
    using F = detail::format<C>;
    C y = x < F::expm1_low ? F::expm1_low : x;
    y = y > F::exp_high ? F::exp_high : y;
    auto [n, r, count] = detail::reduce(y);
    C power = detail::power_of_two<C>(count - 1);  // half of it, because 2^n itself may be too large
    C part = detail::fma(r * r, detail::exp_tail(r), r);
    C shifted = detail::fma(power, part, power - C(0.5)) * C(2);
    return copysign(n == C(0) ? part : shifted, x);
}

template <class C>
DS_INLINE C log(C x) {
    using F = detail::format<C>;
    bool tiny = x < F::smallest;
    constexpr C up = C(u64(1) << F::mantissa);
    auto [k, f, power] = detail::split(tiny ? x * up : x);
    C y = detail::log_of(f, tiny ? k - C(F::mantissa) : k);
    y = x < F::infinity ? y : x;  // infinity and NaN
    return x > C(0) ? y : x == C(0) ? -F::infinity : x < C(0) ? F::nan : y;
}

template <class C>
DS_INLINE C log1p(C x) {
    using F = detail::format<C>;
    using N = typename F::natural;
    C u = C(1) + x, rounded = u - C(1);
    C lost = (C(1) - (u - rounded)) + (x - rounded);
    auto [k, f, power] = detail::split(u);
    C inverse = bits<C>((N(2 * F::bias + 1) - power) << F::mantissa);  // 2^(1-k)
    C y = detail::log_of(detail::fma(C(0.5) * lost, inverse, f), k);
    y = x < F::infinity ? y : x;
    y = x > C(-1) ? y : x == C(-1) ? -F::infinity : x < C(-1) ? F::nan : y;
    return copysign(y, x);
}

namespace detail {

// a / (b + c), rounded about once, for b >= c >= 0
template <class C>
DS_INLINE C ratio(C a, C b, C c) {
    C sum = b + c, lost = c - (sum - b), inverse = C(1) / sum, y = a * inverse;
    return fma(fma(-y, sum, a) - y * lost, inverse, y);
}

}  // namespace detail

// 1 / (1 + e^-x)
template <class C>
DS_INLINE C sigmoid(C x) {
    C e = exp(-abs(x));
    return detail::ratio(x < C(0) ? e : C(1), C(1), e);
}

template <class C>
DS_INLINE C tanh(C x) {
    C y = abs(x);
    C e = expm1(C(2) * (y > C(22) ? C(22) : y));
    return copysign(e > C(2) ? detail::ratio(e, e, C(2)) : detail::ratio(e, C(2), e), x);
}

namespace detail {

// x = quadrant * pi / 2 + r
template <class C>
struct Angle {
    C r;
    typename format<C>::natural quadrant;
};

DS_INLINE Angle<double> turn(double x) {
    using F = format<double>;
    double shifted = x * 0x1.45f306dc9c883p-1 + F::round, n = shifted - F::round;
    double r = fma(-n, 0x1.3198a2ep-69, fma(-n, 0x1.0b4611a6p-34, fma(-n, 0x1.921fb544p+0, x)));
    return {clamp(r, -1.0, 1.0), bits<u64>(shifted)};
}
DS_INLINE Angle<float> turn(float x) {
    auto [r, quadrant] = turn(double(x));
    return {float(r), u32(quadrant)};
}

template <class C, class N>
DS_INLINE C wave(C r, N quadrant) {
    C z = r * r;
    C odd = fma(z * r, sin_tail(z), r);
    C even = fma(z * z, cos_tail(z), C(-0.5) * z) + C(1);
    C y = quadrant & 1 ? even : odd;
    return quadrant & 2 ? -y : y;
}

}  // namespace detail

// Stated accuracy for |x| <= 1e5, float up to 1e8; further out the result is between -1 and 1 but not accurate.
template <class C>
DS_INLINE C sin(C x) {
    auto [r, quadrant] = detail::turn(x);
    C y = detail::wave(r, quadrant);
    return x == C(0) ? x : y;
}
template <class C>
DS_INLINE C cos(C x) {
    auto [r, quadrant] = detail::turn(x);
    return detail::wave(r, quadrant + 1);
}

namespace detail {

// The unrounded sum of two numbers, |high| >= 2^53 |low| or nearly so.
struct Pair {
    double high, low;
};

DS_INLINE Pair product(double a, double b) {
#if DS_FUSED
    return {a * b, fma(a, b, -(a * b))};
#else
    constexpr double half = 0x1p27 + 1;
    double p = a * half, q = b * half;
    double a1 = p - (p - a), b1 = q - (q - b), a2 = a - a1, b2 = b - b1;
    return {a * b, ((a1 * b1 - a * b) + a1 * b2 + a2 * b1) + a2 * b2};
#endif
}

DS_INLINE Pair ordered_sum(double large, double small) {
    double sum = large + small;
    return {sum, small - (sum - large)};
}

// The logarithm of x >= 0 to about 64 bits.
DS_INLINE Pair log_pair(double x) {
    using F = format<double>;
    bool tiny = x < F::smallest;
    auto [k, f, power] = split(tiny ? x * 0x1p52 : x);
    k = tiny ? k - 52.0 : k;
    double u = 2.0 + f, u_low = f - (u - 2.0);
    double s = f / u;
    Pair whole = product(s, u);
    double s_low = ((f - whole.high) - whole.low - s * u_low) / u;
    Pair z = product(s, s);
    z.low += 2.0 * s * s_low;
    Pair third = product(z.high, 0x1.5555555555555p-1);
    double more = z.high * z.high *
                  polynomial(z.high, 0x1.99999999999e1p-2, 0x1.249249247b61ap-2, 0x1.c71c71fff6e06p-3,
                             0x1.745cf8404968ap-3, 0x1.3b1c83a64de56p-3, 0x1.0fb475f91d9c2p-3, 0x1.0c774425b879bp-3);
    third.low += z.high * 0x1.5555555555555p-55 + z.low * 0x1.5555555555555p-1 + more;
    Pair tail = product(s, third.high);
    tail.low += s * third.low + s_low * third.high + 2.0 * s_low;
    Pair y = ordered_sum(2.0 * s, tail.high);
    y.low += tail.low;
    double power_high = k * F::ln2_high;
    Pair sum = ordered_sum(k == 0.0 ? y.high : power_high, k == 0.0 ? 0.0 : y.high);
    Pair result = ordered_sum(sum.high, sum.low + (y.low + k * F::ln2_low));
    return {x > 0.0 ? (x < F::infinity ? result.high : x) : x == 0.0 ? -F::infinity : x, result.low};
}

// x^y from |x|^y, with the signs and special values of C's pow
template <class C>
DS_INLINE C signed_power(C x, C y, C size) {
    using F = format<C>;
    C magnitude = abs(y), parity = magnitude < F::infinity ? magnitude - C(2) * floor(magnitude * C(0.5)) : C(0);
    C r = parity == C(1) ? copysign(size, x) : size;
    C root = parity == floor(parity) ? r : F::nan;
    r = x < C(0) ? root : r;
    r = x == -F::infinity ? (parity == C(1) ? -size : size) : r;
    r = x == C(1) ? C(1) : r;
    return y == C(0) ? C(1) : r;
}

}  // namespace detail

// x to the power y, as C's pow: whole powers of negative numbers, pow(x, 0) = pow(1, y) = 1 even for NaN.
DS_INLINE float pow(float x, float y) {
    double logarithm = log(double(abs(x))), power = clamp(double(y), -1e300, 1e300);
    return detail::signed_power(x, y, float(exp(power * logarithm)));
}
DS_INLINE double pow(double x, double y) {
    auto [high, low] = detail::log_pair(abs(x));
    double power = clamp(y, -1e300, 1e300);
    auto [p, p_low] = detail::product(power, high);
    p_low = abs(p) < 800.0 ? p_low + power * low : 0.0;
    auto [n, r, count] = detail::reduce(clamp(p, -800.0, 800.0));
    r += p_low;
    double size = detail::scale(detail::fma(r * r, detail::exp_tail(r), r) + 1.0, count);
    return detail::signed_power(x, y, size);
}

}  // namespace ds
