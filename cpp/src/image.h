// From a PNG file to the image that a graph takes.
#pragma once

#include <filesystem>
#include <string>

#include "error.h"
#include "tensor.h"

namespace detexport {

// Read a PNG at its own size, 8 bits a channel; an alpha channel is left out, grey and palettes become
// colours. `channel_order` is "RGB" or "BGR".
Image read_png(const std::filesystem::path& path, const std::string& channel_order);

// That the memory does not suffice for an image, which and how large.
Error too_large(const std::filesystem::path& path, Size size);

// The size after a resize rule: the shortest edge becomes `min_size` px unless the longest would exceed
// `max_size`; 0 leaves images as they are. As detexport.data.resize has it, to the last bit.
Size resized_size(Size size, int64_t min_size, int64_t max_size);

// Resize with the arithmetic of PIL's bilinear filter, which averages where it makes smaller: equal to the
// last bit.
Image resize(const Image& image, Size size);

}  // namespace detexport
