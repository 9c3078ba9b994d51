# Installed: both libraries, the headers for C and C++, flashqla.pc, find_package(flashqla), and packages by cpack.
include(CMakePackageConfigHelpers)
install(TARGETS flashqla flashqla_static EXPORT flashqlaTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT development
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(FILES "${PROJECT_SOURCE_DIR}/include/flashqla.h" "${PROJECT_SOURCE_DIR}/bindings/cpp/flashqla.hpp" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT runtime)
install(EXPORT flashqlaTargets NAMESPACE flashqla:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/flashqla COMPONENT development)
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/flashqlaConfig.cmake.in" flashqlaConfig.cmake INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/flashqla)
write_basic_package_version_file(flashqlaConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/flashqlaConfig.cmake" "${PROJECT_BINARY_DIR}/flashqlaConfigVersion.cmake" DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/flashqla
        COMPONENT development)
file(RELATIVE_PATH FQLA_PC_TO_PREFIX "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/") # the library's folder may be lib/x86_64-linux-gnu
string(REGEX REPLACE "/$" "" FQLA_PC_TO_PREFIX "${FQLA_PC_TO_PREFIX}")
configure_file("${PROJECT_SOURCE_DIR}/cmake/flashqla.pc.in" flashqla.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/flashqla.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_VENDOR "flashqla")
set(CPACK_PACKAGE_CONTACT "the flashqla developers") # which .deb and .rpm must name
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_FILE_NAME "flashqla-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR}")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/LICENSE")
set(CPACK_STRIP_FILES ON)

# Debian packages, one a component: libflashqla0 for those who run programs, libflashqla-dev for those who build them. What the library needs
# is said here and not left to dpkg-shlibdeps, which would name what the building machine has; tests/abi holds the library to glibc 2.35.
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  list(APPEND CPACK_GENERATOR DEB)
  set(CPACK_DEB_COMPONENT_INSTALL ON)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(debian_x86_64 amd64)
  set(debian_aarch64 arm64)
  set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE "${debian_${CMAKE_SYSTEM_PROCESSOR}}") # empty elsewhere: cpack asks dpkg
  set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME libflashqla0)
  set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION libs)
  set(CPACK_DEBIAN_RUNTIME_PACKAGE_DEPENDS "libc6 (>= 2.35)")
  set(CPACK_COMPONENT_RUNTIME_DESCRIPTION "The shared library. It opens the CUDA driver where there is one, and else runs on the CPU.")
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libflashqla-dev)
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "libflashqla0 (= ${PROJECT_VERSION})")
  set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "The headers for C and C++, the static library, and what pkg-config and CMake find it by.")
endif()
include(CPack)
