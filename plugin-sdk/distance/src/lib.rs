//! SIMD distance kernels over f32, f16 and 8-bit vectors, with run-time detection.
