#include "tasks/roff.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace heed::tasks {
namespace {

constexpr size_t kWidth = 78;

template <size_t N>
bool one_of(std::string_view name, const std::array<std::string_view, N>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Calls `take` with each line, without its newline.
template <class Take>
void for_each_line(std::string_view text, Take&& take) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    take(text.substr(0, end));
    if (end == text.npos) break;
    text.remove_prefix(end + 1);
  }
}

std::string_view named_character(std::string_view name) {
  using Entry = std::pair<std::string_view, std::string_view>;
  static constexpr std::array<Entry, 17> kCharacters = {{{"aq", "'"},
                                                         {"dq", "\""},
                                                         {"em", "--"},
                                                         {"en", "-"},
                                                         {"bu", "*"},
                                                         {"co", "(C)"},
                                                         {"lq", "\""},
                                                         {"rq", "\""},
                                                         {"oq", "'"},
                                                         {"cq", "'"},
                                                         {"ti", "~"},
                                                         {"ha", "^"},
                                                         {"ga", "`"},
                                                         {"rs", "\\"},
                                                         {"mu", "x"},
                                                         {"<=", "<="},
                                                         {">=", ">="}}};
  for (const auto& [key, value] : kCharacters) {
    if (key == name) return value;
  }
  return "";
}

// The name after an escape letter: one character, (xx or [name]. Moves `at` behind it.
std::string_view escape_name(std::string_view line, size_t& at) {
  if (at >= line.size()) return "";
  size_t begin = at, end = at + 1;
  if (line[at] == '(') {
    begin = at + 1;
    end = at = std::min(line.size(), begin + 2);
  } else if (line[at] == '[') {
    begin = at + 1;
    end = std::min(line.find(']', begin), line.size());
    at = std::min(end + 1, line.size());
  } else {
    at = end;
  }
  return line.substr(begin, end - begin);
}

std::string without_escapes(std::string_view line) {
  std::string out;
  for (size_t i = 0; i < line.size();) {
    if (line[i] != '\\' || i + 1 == line.size()) {
      if (line[i] != '\\') out += line[i];
      ++i;
      continue;
    }
    const char letter = line[i + 1];
    i += 2;
    switch (letter) {
      case '"':
        return out;  // a comment to the end of the line
      case 'f':
      case '*': {
        const auto name = escape_name(line, i);
        if (letter == '*') out += named_character(name);
        break;
      }
      case 's':
        if (i < line.size() && (line[i] == '-' || line[i] == '+')) ++i;
        if (i < line.size() && line[i] >= '0' && line[i] <= '9') ++i;
        break;
      case '(':
      case '[':
        --i;
        out += named_character(escape_name(line, i));
        break;
      case 'e':
      case '\\':
        out += '\\';
        break;
      case '-':
      case '.':
      case '\'':
      case '`':
        out += letter;
        break;
      case ' ':
      case '~':
      case '0':
        out += ' ';
        break;
      default:
        break;  // zero-width: \& \| \^ \, \/ \% \: \c
    }
  }
  return out;
}

std::vector<std::string> arguments(std::string_view text) {
  std::vector<std::string> result;
  for (size_t i = 0; i < text.size();) {
    if (text[i] == ' ' || text[i] == '\t') {
      ++i;
    } else if (text[i] == '"') {
      const size_t end = std::min(text.find('"', i + 1), text.size());
      result.push_back(without_escapes(text.substr(i + 1, end - i - 1)));
      i = end + 1;
    } else {
      size_t end = i;
      while (end < text.size() && text[end] != ' ' && text[end] != '\t') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end, text.size());
      result.push_back(without_escapes(text.substr(i, end - i)));
      i = end;
    }
  }
  return result;
}

std::string joined(const std::vector<std::string>& words, std::string_view between) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += between;
    text += words[i];
  }
  return text;
}

class Stripper {
 public:
  std::string run(std::string_view text) {
    std::string continued;  // lines that end in a backslash go on in the next one
    for_each_line(text, [&](std::string_view line) {
      if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
      size_t backslashes = 0;
      while (backslashes < line.size() && line[line.size() - 1 - backslashes] == '\\') ++backslashes;
      if (backslashes % 2 == 1) {
        continued += line.substr(0, line.size() - 1);
        return;
      }
      take(continued.empty() ? line : std::string_view(continued += line));
      continued.clear();
    });
    take(continued);
    end_paragraph();
    return tidy();
  }

 private:
  void take(std::string_view line) {
    if (defining_) {
      defining_ = line.substr(0, 2) != "..";
    } else if (table_head_) {
      table_head_ = line.empty() || line.back() != '.';
    } else if (!line.empty() && (line[0] == '.' || line[0] == '\'')) {
      size_t begin = 1;
      while (begin < line.size() && line[begin] == ' ') ++begin;
      size_t end = begin;
      while (end < line.size() && line[end] != ' ' && line[end] != '\t') ++end;
      macro(line.substr(begin, end - begin), arguments(line.substr(end)));
    } else if (table_ && line.find_first_not_of("_= \t") == line.npos) {
      return;  // a rule between rows
    } else {
      add(without_escapes(line));
    }
  }

  void macro(std::string_view name, const std::vector<std::string>& words) {
    static constexpr std::array<std::string_view, 14> kBreaks = {"PP", "P",  "LP", "TP", "HP", "TQ", "sp",
                                                                 "RS", "RE", "Pp", "Bl", "El", "Ed", "Lp"};
    static constexpr std::array<std::string_view, 6> kAlternating = {"BR", "RB", "BI", "IB", "IR", "RI"};
    static constexpr std::array<std::string_view, 19> kWords = {
        "B", "I", "SM", "SB", "MT", "UR", "Nm", "Nd", "Fl", "Ar", "Pa", "Xr", "Li", "Em", "Sy", "Dv", "Er", "Va", "Ic"};
    if (name == "de") {
      defining_ = true;
    } else if (name == "TS") {
      end_paragraph();
      table_ = table_head_ = true;
    } else if (name == "TE") {
      table_ = false;
      out_ += '\n';
    } else if (name == "nf" || name == "EX" || name == "Bd") {
      end_paragraph();
      fill_ = false;
    } else if (name == "SH" || name == "SS" || name == "Sh" || name == "Ss") {
      end_paragraph();
      fill_ = true;
      out_ += '\n';
      out_ += joined(words, " ");
      out_ += '\n';
    } else if (name == "br") {
      end_paragraph();
    } else if (name == "IP" || name == "It") {
      end_paragraph();
      out_ += '\n';
      if (!words.empty()) add(words[0]);
    } else if (one_of(name, kAlternating)) {
      add(joined(words, ""));
    } else if (one_of(name, kWords)) {
      add(joined(words, " "));
    }
    if (name == "fi" || name == "EE" || name == "Ed") fill_ = true;
    if (one_of(name, kBreaks)) {
      end_paragraph();
      out_ += '\n';
    }
  }

  void add(const std::string& words) {
    if (fill_ && !table_ && (words.empty() || (words[0] != ' ' && words[0] != '\t'))) {
      if (!paragraph_.empty() && !words.empty()) paragraph_ += ' ';
      paragraph_ += words;
    } else {
      end_paragraph();
      out_ += words;
      out_ += '\n';
    }
  }

  void end_paragraph() {
    size_t column = 0;
    for (size_t i = 0; i < paragraph_.size();) {
      const size_t end = std::min(paragraph_.find(' ', i), paragraph_.size());
      if (end > i) {
        if (column > 0) {
          const bool fits = column + 1 + (end - i) <= kWidth;
          out_ += fits ? ' ' : '\n';
          column = fits ? column + 1 : 0;
        }
        out_.append(paragraph_, i, end - i);
        column += end - i;
      }
      i = end + 1;
    }
    if (column > 0) out_ += '\n';
    paragraph_.clear();
  }

  // No blanks at line ends, one empty line in a row, none first.
  std::string tidy() const {
    std::string result;
    bool gap = true;
    for_each_line(out_, [&](std::string_view line) {
      const size_t end = line.find_last_not_of(" \t");
      if (end == line.npos) {
        if (!gap) result += '\n';
        gap = true;
      } else {
        result.append(line.substr(0, end + 1)) += '\n';
        gap = false;
      }
    });
    return result;
  }

  std::string out_, paragraph_;
  bool defining_ = false, table_ = false, table_head_ = false, fill_ = true;
};

}  // namespace

bool is_roff(std::string_view text) {
  bool found = false, decided = false;
  for_each_line(text.substr(0, 64 * 1024), [&](std::string_view line) {
    if (decided || line.empty()) return;
    const std::string_view macro = line.substr(0, 3);
    if (macro == ".TH" || macro == ".SH" || macro == ".Dd" || macro == ".Sh") found = decided = true;
    if (line[0] != '.' && line[0] != '\'') decided = true;
  });
  return found;
}

std::string strip_roff(std::string_view text) { return Stripper().run(text); }

}  // namespace heed::tasks
