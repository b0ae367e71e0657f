// Which instruction sets the vector kernels are compiled for: AVX2 (the floor of the CPU backend) and AVX-512. Included before
// any Highway header; naming AVX2 the baseline keeps Highway from also compiling SSE versions nobody may run.
#pragma once

#define HWY_BASELINE_TARGETS HWY_AVX2
