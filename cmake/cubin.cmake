# Kernels: each source becomes one compressed fatbin that holds all its images, embedded by .incbin. The driver picks the image.
#
#   FQLA_IMAGE_BITS      a bit for each Image of src/plan/caps.h
#   fqla_embed(target)   compiles every source below and adds the fatbins and their table to target
#
# Beside each fatbin lies SOURCE.ptxas, the compiler's resource report, which tests compare with kernels/budget.tsv.

set(FQLA_PORTABLE_SOURCES common/recurrent common/decode common/short_rows common/backward)
set(FQLA_SM90_SOURCES sm90/solve sm90/forward sm90/segment sm90/cut sm90/fused sm90/fused_trio sm90/fused_wide sm90/backward_chains sm90/backward_segments
    sm90/backward_gradients)

if(NOT FLASHQLA_CUDA)
  set(FQLA_IMAGE_BITS 0)
  set(FQLA_IMAGES_TEXT "none")
  set(FQLA_TOOLKIT_TEXT "none")
  return()
endif()

find_program(FLASHQLA_NVCC nvcc HINTS "${PROJECT_SOURCE_DIR}/build/toolkit/nvidia/cu13/bin" /usr/local/cuda/bin ENV CUDA_HOME PATH_SUFFIXES bin
             DOC "nvcc 13.0; cmake/setup.sh brings one where there is none")
if(NOT FLASHQLA_NVCC)
  message(FATAL_ERROR "nvcc was not found. Install CUDA 13.0, or run cmake/setup.sh, or configure with -DFLASHQLA_CUDA=OFF")
endif()
execute_process(COMMAND ${FLASHQLA_NVCC} --version OUTPUT_VARIABLE nvcc_version)
string(REGEX MATCH "V([0-9.]+)" _ "${nvcc_version}")
set(FQLA_TOOLKIT_TEXT "${CMAKE_MATCH_1}")
get_filename_component(nvcc_real "${FLASHQLA_NVCC}" REALPATH)
get_filename_component(nvcc_bin "${nvcc_real}" DIRECTORY)
find_path(FLASHQLA_CUDA_INCLUDE cuda.h HINTS "${nvcc_bin}/../include" "${nvcc_bin}/../targets/x86_64-linux/include" NO_DEFAULT_PATH)
if(NOT FLASHQLA_CUDA_INCLUDE)
  message(FATAL_ERROR "cuda.h was not found beside ${FLASHQLA_NVCC}")
endif()

set(image_order none 80 90a 100f 120f PTX) # as enum Image
set(FQLA_IMAGE_BITS 0)
set(image_names)
set(portable_flags)
foreach(image IN LISTS FLASHQLA_IMAGES)
  list(FIND image_order "${image}" bit)
  if(bit LESS 1)
    message(FATAL_ERROR "FLASHQLA_IMAGES: unknown image ${image}, must be 80, 90a, 100f, 120f or PTX")
  endif()
  math(EXPR FQLA_IMAGE_BITS "${FQLA_IMAGE_BITS} | (1 << ${bit})")
  if(image STREQUAL "PTX")
    list(APPEND portable_flags -gencode=arch=compute_80,code=compute_80)
    list(APPEND image_names "compute_80 PTX")
  else()
    list(APPEND portable_flags -gencode=arch=compute_${image},code=sm_${image})
    list(APPEND image_names sm_${image})
  endif()
endforeach()
list(JOIN image_names ", " FQLA_IMAGES_TEXT)

function(fqla_fatbin source flags)
  get_filename_component(name ${source} NAME)
  set(kernels "${PROJECT_SOURCE_DIR}/kernels")
  set(fatbin "${PROJECT_BINARY_DIR}/kernels/${name}.fatbin")
  add_custom_command(
    OUTPUT ${fatbin} ${fatbin}.ptxas
    COMMAND ${CMAKE_COMMAND} "-DNVCC=${FLASHQLA_NVCC}" "-DSOURCE=${kernels}/${source}.cu" "-DFATBIN=${fatbin}" "-DFLAGS=${flags}"
            "-DINCLUDES=${PROJECT_SOURCE_DIR}/include;${kernels}/contract;${kernels}/ptx;${kernels}/common"
            "-DHOST=${CMAKE_CXX_COMPILER}" -P "${PROJECT_SOURCE_DIR}/cmake/compile_kernel.cmake"
    DEPENDS "${kernels}/${source}.cu" "${PROJECT_SOURCE_DIR}/cmake/compile_kernel.cmake"
    DEPFILE ${fatbin}.d
    COMMENT "Compiling kernels ${source}.cu for ${FQLA_IMAGES_TEXT}"
    VERBATIM)
  set(assembly "${PROJECT_BINARY_DIR}/kernels/${name}.S")
  file(CONFIGURE OUTPUT ${assembly} CONTENT [[
        .section .rodata
        .balign 64
        .globl fqla_fatbin_@name@
        .hidden fqla_fatbin_@name@
fqla_fatbin_@name@:
        .incbin "@fatbin@"
        .section .note.GNU-stack,"",%progbits
]] @ONLY)
  set_source_files_properties(${assembly} PROPERTIES OBJECT_DEPENDS ${fatbin})
  set(assembly ${assembly} PARENT_SCOPE)
endfunction()

function(fqla_embed target)
  set(declarations)
  set(rows)
  set(count 0)
  foreach(source IN LISTS FQLA_PORTABLE_SOURCES FQLA_SM90_SOURCES)
    set(flags "${portable_flags}")
    if(source IN_LIST FQLA_SM90_SOURCES)
      if(NOT "90a" IN_LIST FLASHQLA_IMAGES)
        continue()
      endif()
      set(flags -gencode=arch=compute_90a,code=sm_90a)
    endif()
    fqla_fatbin(${source} "${flags}")
    target_sources(${target} PRIVATE ${assembly})
    get_filename_component(name ${source} NAME)
    string(APPEND declarations "extern \"C\" const unsigned char fqla_fatbin_${name}[];\n")
    string(APPEND rows "    {\"${name}\", fqla_fatbin_${name}},\n")
    math(EXPR count "${count} + 1")
  endforeach()
  file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/kernels/embedded.cpp" CONTENT
       "#include \"embedded.h\"\n\n${declarations}\nnamespace fqla::cuda {\nconst Embedded kEmbedded[] = {\n${rows}};\n}\n")
  target_sources(${target} PRIVATE "${PROJECT_BINARY_DIR}/kernels/embedded.cpp")
  target_compile_definitions(${target} PRIVATE FQLA_EMBEDDED_COUNT=${count})
endfunction()
