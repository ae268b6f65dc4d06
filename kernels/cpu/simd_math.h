// exp, tanh and the activation functions on V16. Each lane is computed independently, so a lane of
// a partly filled vector has the same result as in a full vector. Pure functions.
#pragma once

namespace tessera::cpu::TESSERA_ISA {

inline constexpr float kExpLow = -87.33654f;  // e^x is subnormal for lower x
// Returns e^(x - n ln 2), so that e^x = 2^n * ReducedExp(x, n). REQUIRES: n = RoundToInt(x / ln 2).
// ln 2 is subtracted in two parts; the polynomial of degree 6 is the minimax one of Cephes' expf.
TESSERA_INLINE V16 ReducedExp(V16 x, V16 n) {
  V16 r = Fma(n, Set1(-0.693359375f), x);
  r = Fma(n, Set1(2.12194440e-4f), r);
  V16 p = Set1(1.9875691500e-4f);
  p = Fma(p, r, Set1(1.3981999507e-3f));
  p = Fma(p, r, Set1(8.3334519073e-3f));
  p = Fma(p, r, Set1(4.1665795894e-2f));
  p = Fma(p, r, Set1(1.6666665459e-1f));
  p = Fma(p, r, Set1(5.0000001201e-1f));
  return Fma(p, Mul(r, r), Add(r, Set1(1.0f)));
}

// Returns e^x within 2 ulp for x <= 0, 0 for x < -87.33 (so e^-infinity is 0), and NaN for NaN.
TESSERA_INLINE V16 ExpNonPositive(V16 x) {
  const V16 low = Set1(kExpLow);
  const V16 clamped = Max(low, x);
  const V16 n = RoundToInt(Mul(clamped, Set1(1.44269504088896341f)));
  const V16 result = Mul(ReducedExp(clamped, n), PowerOfTwo(n));
  return SelectLess(x, low, Zero(), result);
}

// Returns e^x within 2 ulp, 0 for x < -87.33, infinity for x > 88.72, and NaN for NaN.
TESSERA_INLINE V16 Exp(V16 x) {
  const V16 low = Set1(kExpLow);
  const V16 high = Set1(88.72283f);
  const V16 clamped = Min(high, Max(low, x));
  const V16 n = RoundToInt(Mul(clamped, Set1(1.44269504088896341f)));
  // 2^n is applied as two factors, because n may be 128, and 2^128 is not a float.
  const V16 half = RoundToInt(Mul(n, Set1(0.5f)));
  const V16 p = ReducedExp(clamped, n);
  const V16 result = Mul(Mul(p, PowerOfTwo(half)), PowerOfTwo(Sub(n, half)));
  const V16 bounded = SelectLess(x, low, Zero(), result);
  return SelectLess(high, x, Set1(__builtin_inff()), bounded);
}

// Returns tanh(x) within 4 ulp: by Cephes' polynomial for |x| < 0.625, else by
// 1 - 2 / (e^(2|x|) + 1) with the sign of x.
TESSERA_INLINE V16 Tanh(V16 x) {
  const V16 square = Mul(x, x);
  V16 p = Set1(-5.70498872745e-3f);
  p = Fma(p, square, Set1(2.06390887954e-2f));
  p = Fma(p, square, Set1(-5.37397155531e-2f));
  p = Fma(p, square, Set1(1.33314422036e-1f));
  p = Fma(p, square, Set1(-3.33332819422e-1f));
  const V16 near = Fma(Mul(p, square), x, x);
  const V16 magnitude = Abs(x);
  const V16 e = Exp(Add(magnitude, magnitude));
  const V16 far = Sub(Set1(1.0f), Div(Set1(2.0f), Add(e, Set1(1.0f))));
  const V16 signed_far = SelectLess(x, Zero(), Sub(Zero(), far), far);
  return SelectLess(magnitude, Set1(0.625f), near, signed_far);
}

// x / (1 + e^-x)
TESSERA_INLINE V16 Silu(V16 x) { return Div(x, Add(Set1(1.0f), Exp(Sub(Zero(), x)))); }

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
TESSERA_INLINE V16 GeluTanh(V16 x) {
  const V16 cube = Mul(Mul(x, x), x);
  const V16 inner = Mul(Set1(0.7978845608028654f), Fma(Set1(0.044715f), cube, x));
  return Mul(Mul(Set1(0.5f), x), Add(Set1(1.0f), Tanh(inner)));
}

TESSERA_INLINE V16 Softcap(V16 x, float cap) { return Mul(Set1(cap), Tanh(Div(x, Set1(cap)))); }

}  // namespace tessera::cpu::TESSERA_ISA
