# The CPU backend's sources, relative to the top level, and the flags that some of them need.
set(FQLA_CPU_SOURCES
    src/cpu/backward.cpp
    src/cpu/fast_states.cpp
    src/cpu/forward.cpp
    src/cpu/kernels.cpp
    src/cpu/kernels_portable.cpp
    src/cpu/oracle.cpp
    src/cpu/thread_pool.cpp
    src/cpu/tile.cpp)
set(FQLA_CPU_KERNEL_FLAGS -O3 -fno-math-errno)
set_source_files_properties(src/cpu/kernels_portable.cpp PROPERTIES COMPILE_OPTIONS "${FQLA_CPU_KERNEL_FLAGS}")

# The same kernels_impl.h for each instruction set. No other file may be compiled with these flags: it could run on a CPU without them.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
    list(APPEND FQLA_CPU_SOURCES src/cpu/kernels_avx2.cpp src/cpu/kernels_avx512.cpp)
    set_source_files_properties(src/cpu/kernels_avx2.cpp PROPERTIES COMPILE_OPTIONS "${FQLA_CPU_KERNEL_FLAGS};-mavx2;-mfma;-mf16c")
    set_source_files_properties(src/cpu/kernels_avx512.cpp PROPERTIES COMPILE_OPTIONS
        "${FQLA_CPU_KERNEL_FLAGS};-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx2;-mfma;-mf16c;-mprefer-vector-width=512")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
    list(APPEND FQLA_CPU_SOURCES src/cpu/kernels_neon.cpp)
    set_source_files_properties(src/cpu/kernels_neon.cpp PROPERTIES COMPILE_OPTIONS "${FQLA_CPU_KERNEL_FLAGS}")
endif()
