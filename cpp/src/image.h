// Read a PNG file and resize it to the graph's input image.
#pragma once

#include <filesystem>
#include <string>

#include "error.h"
#include "tensor.h"

namespace detexport {

// Read a PNG at its own size, 8 bits per channel. Drops an alpha channel, converts grey and palettes to
// colours. `channel_order` is "RGB" or "BGR".
Image read_png(const std::filesystem::path& path, const std::string& channel_order);

// Return the error for an image that does not fit into memory, with its path and size.
Error too_large(const std::filesystem::path& path, Size size);

// Return the size after a resize rule: shortest edge `min_size` px, longest edge at most `max_size` px; 0
// disables it. Equals detexport.data.resize to the last bit.
Size resized_size(Size size, int64_t min_size, int64_t max_size);

// Resize with the arithmetic of PIL's bilinear filter, which averages when it shrinks; equal to PIL to the
// last bit.
Image resize(const Image& image, Size size);

}  // namespace detexport
