# Warnings are errors in this project's own code; sanitizers reach the CPU side alone.
add_library(fqla_warnings INTERFACE)
target_compile_options(fqla_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror)
if(FLASHQLA_SANITIZE)
  target_compile_options(fqla_warnings INTERFACE -fsanitize=${FLASHQLA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
  target_link_options(fqla_warnings INTERFACE -fsanitize=${FLASHQLA_SANITIZE})
endif()
