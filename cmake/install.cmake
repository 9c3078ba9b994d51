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
configure_file("${PROJECT_SOURCE_DIR}/cmake/flashqla.pc.in" flashqla.pc @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/flashqla.pc" DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_VENDOR "flashqla")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_FILE_NAME "flashqla-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR}")
set(CPACK_RESOURCE_FILE_LICENSE "${PROJECT_SOURCE_DIR}/LICENSE")
set(CPACK_STRIP_FILES ON)
include(CPack)
