# snapfs_library(NAME SOURCES... ) makes the static library NAME whose headers
# are found as "NAME/x.h" by those that link it, and by nobody else: each
# library's include path holds one link, to its own folder. So an include
# against the one-way order does not compile.
function(snapfs_library name)
  add_library(${name} STATIC ${ARGN})
  set(view ${CMAKE_BINARY_DIR}/include/${name})
  file(MAKE_DIRECTORY ${view})
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${view}/${name} SYMBOLIC)
  target_include_directories(${name} PUBLIC ${view})
endfunction()
