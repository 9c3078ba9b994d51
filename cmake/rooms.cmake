# Rooms and the arrows between them, enforced by include paths: api -> plan, cuda, cpu; cuda -> plan; cpu -> plan; plan -> contract;
# base (status, text, mutex) is open to all. The contract is what kernels and library share.
function(fqla_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES;SEES" ${ARGN})
  add_library(fqla_${name} OBJECT ${ROOM_SOURCES})
  target_include_directories(fqla_${name} PRIVATE "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/kernels/contract" "${PROJECT_SOURCE_DIR}/src/base")
  foreach(room ${name} ${ROOM_SEES})
    target_include_directories(fqla_${name} PRIVATE "${PROJECT_SOURCE_DIR}/src/${room}")
  endforeach()
  # No exceptions, no run-time types, no guarded statics: nothing of libstdc++ is needed, so any C program can link the static library.
  target_compile_options(fqla_${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions -fno-rtti -fno-threadsafe-statics> -fvisibility=hidden -ffunction-sections
                                              -fdata-sections)
  set_target_properties(fqla_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_compile_definitions(fqla_${name} PRIVATE FLASHQLA_BUILD FQLA_IMAGE_BITS=${FQLA_IMAGE_BITS}u "FQLA_IMAGES=\"${FQLA_IMAGES_TEXT}\"" "FQLA_TOOLKIT=\"${FQLA_TOOLKIT_TEXT}\"")
  target_link_libraries(fqla_${name} PRIVATE fqla_warnings)
  set_property(GLOBAL APPEND PROPERTY FQLA_ROOMS fqla_${name})
endfunction()

include("${PROJECT_SOURCE_DIR}/src/cpu/sources.cmake") # FQLA_CPU_SOURCES, with the flags of each SIMD level
set(src "${PROJECT_SOURCE_DIR}/src")
fqla_room(base SOURCES ${src}/base/status.cpp)
fqla_room(plan SOURCES ${src}/plan/plan.cpp ${src}/plan/engines.cpp ${src}/plan/cost.cpp ${src}/plan/sm90_plan.cpp ${src}/plan/recurrent_plan.cpp ${src}/plan/backward_plan.cpp ${src}/plan/sm90_backward_plan.cpp ${src}/plan/cpu_plan.cpp)
fqla_room(cpu SOURCES ${FQLA_CPU_SOURCES} SEES plan)
fqla_room(api SOURCES ${src}/api/flashqla.cpp ${src}/api/create.cpp ${src}/api/structs.cpp ${src}/api/problem.cpp ${src}/api/tensors.cpp ${src}/api/spans.cpp
                      ${src}/api/explain.cpp ${src}/api/build_info.cpp
          SEES plan cpu cuda)
if(FLASHQLA_CUDA)
  fqla_room(cuda SOURCES ${src}/cuda/images.cpp ${src}/cuda/driver.cpp ${src}/cuda/device.cpp ${src}/cuda/loader.cpp ${src}/cuda/launch.cpp ${src}/cuda/tensor_map.cpp ${src}/cuda/kernel_args.cpp SEES plan)
  target_include_directories(fqla_cuda SYSTEM PRIVATE "${FLASHQLA_CUDA_INCLUDE}")
  fqla_embed(fqla_cuda)
else()
  fqla_room(cuda SOURCES ${src}/cuda/images.cpp ${src}/cuda/absent.cpp SEES plan)
endif()
