// What a vision transformer looks at in a picture, as JSON and as a page.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "heed/formats/picture.h"
#include "heed/probe/picture_attention.h"

namespace heed::bench {

/// {"rollout": rows of numbers, "heads": [layers][heads] rows of numbers, "classes": most likely first}
nlohmann::ordered_json to_json(const probe::PictureMaps& maps);

/// The picture under the rollout, the mean of every layer, and every head of the last layer; pictures are inside.
std::string picture_html(const formats::Picture& picture, const probe::PictureMaps& maps, const std::string& title);

}  // namespace heed::bench
