# Flags every heed target shares.
find_program(HEED_CCACHE ccache)
if(HEED_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${HEED_CCACHE})
endif()

add_library(heed_options INTERFACE)
# The collector of gcc's own memory would walk libtorch's declarations again and again to free little: a sixth of a file's time.
target_compile_options(heed_options INTERFACE $<$<CXX_COMPILER_ID:GNU>:--param=ggc-min-heapsize=4000000>)
target_compile_options(heed_options INTERFACE -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -fno-math-errno $<$<CXX_COMPILER_ID:GNU>:-Wno-psabi>)
if(HEED_SANITIZE)
  target_compile_options(heed_options INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(heed_options INTERFACE -fsanitize=address,undefined)
endif()

if(HEED_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES Clang)
    message(FATAL_ERROR "HEED_FUZZ=ON needs clang for libFuzzer, not ${CMAKE_CXX_COMPILER_ID}")
  endif()
  target_compile_options(heed_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# heed::<name>, a library whose package brings no CMake configuration.
function(heed_find_library name header library)
  find_path(HEED_${name}_INCLUDE ${header} REQUIRED)
  find_library(HEED_${name}_LIBRARY ${library} REQUIRED)
  add_library(heed::${name} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(heed::${name} PROPERTIES IMPORTED_LOCATION ${HEED_${name}_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${HEED_${name}_INCLUDE})
endfunction()

# The commit goes into every measured figure.
execute_process(COMMAND git -C ${PROJECT_SOURCE_DIR} rev-parse --short HEAD OUTPUT_VARIABLE HEED_COMMIT
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT HEED_COMMIT)
  set(HEED_COMMIT unknown)
endif()

# One precompiled header of libtorch serves the library and the programs over it: it must see the library's flags, so a program is
# compiled as position-independent and with OpenMP as the library.
function(heed_reuse_precompiled_header target)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE -fPIC -Winvalid-pch)
  target_link_libraries(${target} PRIVATE OpenMP::OpenMP_CXX)
  target_precompile_headers(${target} REUSE_FROM heed)
endfunction()

# Most of a file's compile time is libtorch's templates, so the files of one folder are compiled together, `size` at a time; those of
# different folders never, so that a change of one floor rebuilds little of the others. Further arguments: files that are compiled by
# themselves.
function(heed_compile_together target size)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  get_target_property(sources ${target} SOURCES)
  foreach(source ${sources})
    cmake_path(RELATIVE_PATH source BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
    if(source IN_LIST ARGN)
      set_source_files_properties(${source} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
      continue()
    endif()
    cmake_path(GET source PARENT_PATH folder)
    string(MAKE_C_IDENTIFIER "${folder}" group)
    math(EXPR batch "0${count_${group}} / ${size}")
    math(EXPR count_${group} "0${count_${group}} + 1")
    set_source_files_properties(${source} PROPERTIES UNITY_GROUP "${group}_${batch}")
  endforeach()
endfunction()
