#include "bench/page.h"

#include <fmt/format.h>

#include "bench/svg.h"

namespace heed::bench {
namespace {

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de; --faint: #e9edf1; --panel: #f6f8fa;
  --c0: #0072b2; --c1: #c44a00; --c2: #00805c; --c3: #a63d80; --c4: #8a6100; --c5: #0b8793; --c6: #6f4bb3; --c7: #3d4650; --muted: #9aa4ae; }
@media (prefers-color-scheme: dark) { :root { --ground: #0f1419; --ink: #e6eaee; --soft: #9aa7b4; --rule: #39434d; --faint: #212a32; --panel: #161d24;
  --c0: #58b4f0; --c1: #ff9457; --c2: #3fd0a4; --c3: #f08cc8; --c4: #e8b93a; --c5: #5fd7e0; --c6: #b79cf2; --c7: #d3dae1; --muted: #66727e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 3rem; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .4rem; } h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .4rem 0; } .soft, figcaption, footer { color: var(--soft); font-size: .9rem; }
.finding { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; padding: .7rem 1rem; margin: 1rem 0; }
figure { margin: .6rem 0 0; } svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th { border-bottom: 1px solid var(--rule); font-weight: 600; } th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
td.word { text-align: left; white-space: normal; } tr.exact td:first-child { font-weight: 600; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; }
svg text { font-family: inherit; fill: var(--ink); } svg .tick { font-size: 12px; fill: var(--soft); } svg .label { font-size: 13px; fill: var(--soft); }
svg .name { font-size: 12px; } svg .grid { stroke: var(--faint); stroke-width: 1; } svg .minor { stroke-dasharray: 1 4; } svg .axis { stroke: var(--rule); stroke-width: 1; }
svg .series { fill: none; stroke-width: 2; } svg .series.muted { stroke-width: 1; } svg .leader { fill: none; stroke-width: 1; opacity: .6; }
svg .point { stroke: var(--ground); stroke-width: 1; } svg .d1 { stroke-dasharray: 6 4; } svg .d2 { stroke-dasharray: 2 4; } svg .point.d1, svg .point.d2 { stroke-dasharray: none; }
svg .front { fill: none; stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 3 3; } svg .ring { fill: none; stroke: var(--ink); stroke-width: 2; }
svg .heat { fill: var(--c0); } svg .name.on { fill: var(--ground); }
svg .h0 { opacity: .03; } svg .h1 { opacity: .1; } svg .h2 { opacity: .2; } svg .h3 { opacity: .3; } svg .h4 { opacity: .4; } svg .h5 { opacity: .5; }
svg .h6 { opacity: .6; } svg .h7 { opacity: .7; } svg .h8 { opacity: .8; } svg .h9 { opacity: .9; }
)css";

std::string colour_rules() {
  std::string rules;
  for (const char* name : {"c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "muted"})
    rules += fmt::format(
        "svg .series.{0}, svg .leader.{0} {{ stroke: var(--{0}); }} svg .point.{0} {{ fill: var(--{0}); }}\n", name);
  return rules;
}

}  // namespace

std::string page(std::string_view title, std::string_view heading, std::string_view subtitle, std::string_view body,
                 std::string_view footer) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n"
      "<title>{}</title>\n<style>{}{}</style>\n</head>\n<body>\n<h1>{}</h1>\n<p class=\"soft\">{}</p>\n{}"
      "<footer><p>{}</p></footer>\n</body>\n</html>\n",
      escape_xml(title), kStyle, colour_rules(), escape_xml(heading), escape_xml(subtitle), body, escape_xml(footer));
}

}  // namespace heed::bench
