// Any template renders UTF-8 within its bounds, or is one heed::Error of one line.
#include <array>
#include <cstdlib>
#include <string>

#include "formats/unicode.h"
#include "heed/error.h"
#include "heed/formats/chat_template.h"

namespace {

// Whole templates, so that what damages them reaches every part of the language.
constexpr std::array<std::string_view, 3> kGood = {
    R"({%- set ns = namespace(n=0, s='') %}{%- for m in messages[::-1] if m.role is string %}
  {%- if loop.first or m['role'] == 'user' and not loop.last %}{{- '<' ~ m.role + '>\n' + m.content | trim }}{%- elif loop.index0 % 2 == 1 %}{% continue %}{% else %}{{ loop.index / 2 }}{%- endif %}
  {%- set ns.n = ns.n + 1 %}{%- endfor %}{{ ns.n }}{% if add_generation_prompt -%} go {%- endif %})",
    R"({# c #}{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') | upper }}{{ tools | tojson(indent=2) }}
{% for k, v in {'a': [1, 2.5, none], 'b': {'c': true}}.items() %}{{ k }}={{ v }};{% endfor %}{% set x %}{{ 'a b'.split(' ')[-1].strip('b') }}{% endset %}{{ x | replace('a', 'é') | indent(3, true) | reverse | length }}{{ 'x' * 3 }}{{ 7 // 2 ** 2 }})",
    R"({% set a, b = (1, 'q') %}{{ a if b in 'pq' else missing.y }}{{ [3, 1] + [b] }}{{ x | default('d') }}{{ range(4) | select('odd') | list | first }}{{ '%.2' | string ~ (1 < 2 <= 3) }}{{ messages[0].get('content', 0)[1:3] }}{% generation %}{{ strftime_now('') }}{{ b.startswith(('q', 'r')) }}{% endgeneration %}{{ raise_exception('no') if false }})"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heed::formats;
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (const size_t which = data[0] % 4; which < kGood.size()) {
    // Edits of a good template: a place, how many bytes go, and the byte that comes.
    text = kGood[which];
    for (size_t i = 1; i + 3 < size && !text.empty(); i += 4) {
      const size_t at = (data[i] + size_t{256} * data[i + 1]) % text.size();
      text.replace(at, data[i + 2] % 4, 1, static_cast<char>(data[i + 3]));
    }
  }
  const nlohmann::ordered_json messages = {{{"role", "system"}, {"content", " be brief "}},
                                           {{"role", "user"}, {"content", "h\xc3\xa9llo \xe6\x97\xa5"}}};
  try {
    const std::string out = ChatTemplate::parse(text, "fuzz").render(messages);
    if (invalid_utf8_at(out) != out.npos) std::abort();
  } catch (const heed::Error& error) {
    for (const char* c = error.what(); *c; ++c) {
      if (*c == '\n') std::abort();
    }
  }
  return 0;
}
