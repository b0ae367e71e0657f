// What narrower products gain and quantising costs on a device, by arithmetic: rates of an H200 for products that fill it. A layer that
// would lose stays in 16 bits.
#pragma once

namespace rhetor {

constexpr double kFlops16 = 650e12, kFlopsF8 = 1150e12, kOpsI8 = 1000e12;   // a second
constexpr double kActivationBytesPerSecond = 3e12;                          // mostly from the second-level cache
constexpr double kLaunchSeconds = 1.5e-6;                                   // one more kernel of a recorded graph

inline double seconds_gained(double flops, double rate) { return flops / kFlops16 - flops / rate; }
// A kernel of its own that reads 2 bytes an element and writes 1.
inline double seconds_to_quantise(double elements) { return 3 * elements / kActivationBytesPerSecond + kLaunchSeconds; }

}  // namespace rhetor
