# Flags every heed target shares.
find_program(HEED_CCACHE ccache)
if(HEED_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${HEED_CCACHE})
endif()

add_library(heed_options INTERFACE)
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
