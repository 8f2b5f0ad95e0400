#include "heed/nn/scan_paths.h"

#include "heed/error.h"
#include "heed/names.h"

namespace heed::nn {

using torch::Tensor;

const std::vector<std::string>& ScanPaths::kinds() {
  static const std::vector<std::string> kinds{"cross", "snake", "bidirectional", "single"};
  return kinds;
}

int64_t ScanPaths::count(const std::string& kind) {
  require(std::find(kinds().begin(), kinds().end(), kind) != kinds().end(), "scan paths {}: {}", kind,
          suggest(kind, kinds()));
  return kind == "single" ? 1 : kind == "bidirectional" ? 2 : 4;
}

ScanPaths::ScanPaths(const std::string& kind, int64_t height, int64_t width) {
  require(height >= 0 && width >= 0, "scan paths over {} x {} cells: sizes of 0 or more are accepted", height, width);
  const int64_t paths = count(kind);
  const auto cells = torch::arange(height * width).view({height, width});
  auto rows = cells, columns = cells.t();
  if (kind == "snake") {
    const auto turned = [](const Tensor& lines) {
      const auto odd = torch::arange(lines.size(0)).remainder(2).to(torch::kBool).unsqueeze(1);
      return torch::where(odd, lines.flip(1), lines);
    };
    rows = turned(rows), columns = turned(columns);
  }
  std::vector<Tensor> orders{rows.flatten()};
  if (paths == 2) orders.push_back(orders[0].flip(0));
  if (paths == 4) {
    orders.push_back(columns.flatten());
    orders.push_back(orders[0].flip(0));
    orders.push_back(orders[1].flip(0));
  }
  order = torch::stack(orders);
  inverse = std::get<1>(order.sort(1));
}

Tensor ScanPaths::scan(const Tensor& x) const {
  return x.index_select(1, order.t().flatten()).unflatten(1, {order.size(1), order.size(0)});
}

Tensor ScanPaths::merge(const Tensor& y) const {
  const auto paths = torch::arange(order.size(0)).unsqueeze(1);
  const auto places = (inverse * order.size(0) + paths).t().flatten();
  return y.flatten(1, 2).index_select(1, places).unflatten(1, {order.size(1), order.size(0)}).sum(2);
}

}  // namespace heed::nn
