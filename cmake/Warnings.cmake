# Warnings and sanitizers for everything that is built. An unknown flag fails.
add_compile_options(
  -Wall -Wextra -Wconversion -Wshadow -Wvla
  $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes>
  $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>
  -fno-omit-frame-pointer
  -fstack-protector-strong
)
add_compile_definitions(_FILE_OFFSET_BITS=64 SNAPFS_VERSION="${PROJECT_VERSION}")
if(CMAKE_BUILD_TYPE MATCHES "Rel")
  add_compile_definitions(_FORTIFY_SOURCE=2)
endif()
add_link_options(-Wl,-z,relro,-z,now -Wl,--as-needed)
if(SNAPFS_WERROR)
  add_compile_options(-Werror)
endif()
if(SNAPFS_SANITIZE)
  add_compile_options(-fsanitize=${SNAPFS_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SNAPFS_SANITIZE})
endif()
