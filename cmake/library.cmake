# The shared and the static library, made of the rooms' objects.
get_property(rooms GLOBAL PROPERTY FQLA_ROOMS)
set(objects)
foreach(room IN LISTS rooms)
  list(APPEND objects $<TARGET_OBJECTS:${room}>)
endforeach()

# Linked as C: the objects need nothing of libstdc++. nodelete: kernels and threads may outlive a dlclose.
add_library(flashqla SHARED ${objects})
add_library(flashqla::flashqla ALIAS flashqla)
set_target_properties(flashqla PROPERTIES LINKER_LANGUAGE C VERSION ${PROJECT_VERSION} SOVERSION 0 LINK_DEPENDS "${PROJECT_SOURCE_DIR}/src/flashqla.map")
target_include_directories(flashqla PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_options(flashqla PRIVATE "LINKER:--version-script=${PROJECT_SOURCE_DIR}/src/flashqla.map" LINKER:-z,nodelete LINKER:--gc-sections LINKER:--as-needed)
if(NOT FLASHQLA_SANITIZE)
  target_link_options(flashqla PRIVATE LINKER:--no-undefined)
endif()
target_link_libraries(flashqla PRIVATE fqla_warnings m pthread dl)

# One relocatable object whose only global symbols are flashqla_*: C++ names of ours cannot meet a program's.
add_custom_command(
  OUTPUT flashqla_whole.o
  COMMAND ${CMAKE_LINKER} -r -o flashqla_whole.o ${objects}
  COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=flashqla_* flashqla_whole.o
  DEPENDS ${objects}
  COMMAND_EXPAND_LISTS VERBATIM)
add_library(flashqla_static STATIC flashqla_whole.o)
add_dependencies(flashqla_static ${rooms}) # make sees the objects above only as files of other targets
add_library(flashqla::flashqla_static ALIAS flashqla_static)
set_target_properties(flashqla_static PROPERTIES OUTPUT_NAME flashqla LINKER_LANGUAGE C)
target_compile_definitions(flashqla_static INTERFACE FLASHQLA_STATIC)
target_include_directories(flashqla_static PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(flashqla_static PUBLIC m pthread dl)
if(FLASHQLA_SANITIZE)
  target_link_options(flashqla_static PUBLIC -fsanitize=${FLASHQLA_SANITIZE})
endif()
