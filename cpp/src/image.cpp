#include "image.h"

#include <png.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <new>

namespace detexport {
namespace {

// Return the orientation in an EXIF block (TIFF tag 274); 1, upright, if there is none.
int exif_orientation(std::span<const uint8_t> exif) {
    const bool little = !exif.empty() && exif[0] == 'I';
    const auto number = [&](size_t offset, size_t bytes) -> uint64_t {
        uint64_t value = 0;
        if (offset + bytes > exif.size()) return 0;
        for (size_t i = 0; i < bytes; ++i)
            value |= uint64_t(exif[offset + i]) << 8 * (little ? i : bytes - 1 - i);
        return value;
    };
    const size_t directory = number(4, 4);
    for (size_t entry = 0; entry < number(directory, 2); ++entry)
        if (const size_t offset = directory + 2 + 12 * entry; number(offset, 2) == 274)
            return number(offset + 8, 2);
    return 1;
}

// libpng's error callback must not return: it jumps back to the entry of a method, which then throws. So no
// object with a destructor may be alive in between.
class PngReader {
public:
    explicit PngReader(FILE* file)
        : png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &message_, fail, ignore)) {
        info_ = png_create_info_struct(png_);
        png_init_io(png_, file);
    }
    PngReader(const PngReader&) = delete;
    ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

    // Read the header and request three channels of 8 bits, interleaved.
    Size read_header(bool bgr) {
        if (setjmp(png_jmpbuf(png_))) throw std::runtime_error(message_);
        png_read_info(png_, info_);
        if (png_get_color_type(png_, info_) == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png_, info_) == 16)
            png_error(png_, "16 bits of grey a pixel");
        png_set_strip_16(png_);
        png_set_palette_to_rgb(png_);
        png_set_expand_gray_1_2_4_to_8(png_);
        png_set_gray_to_rgb(png_);
        png_set_strip_alpha(png_);
        if (bgr) png_set_bgr(png_);
        passes_ = png_set_interlace_handling(png_);
        png_read_update_info(png_, info_);
        const Size size{png_get_image_height(png_, info_), png_get_image_width(png_, info_)};
        if (png_get_rowbytes(png_, info_) != size_t(3 * size.width))
            png_error(png_, "not three channels of 8 bits");
        return size;
    }

    void read_rows(uint8_t* pixels, Size size) {
        if (setjmp(png_jmpbuf(png_))) throw std::runtime_error(message_);
        for (int pass = 0; pass < passes_; ++pass)
            for (int64_t y = 0; y < size.height; ++y)
                png_read_row(png_, pixels + 3 * size.width * y, nullptr);
        png_read_end(png_, info_);
        png_bytep exif = nullptr;
        png_uint_32 exif_size = 0;
        if (png_get_eXIf_1(png_, info_, &exif_size, &exif) && exif_orientation({exif, exif_size}) > 1)
            png_error(png_, "not upright, by its EXIF orientation");
    }

private:
    [[noreturn]] static void fail(png_structp png, png_const_charp message) {
        *static_cast<std::string*>(png_get_error_ptr(png)) = message;
        png_longjmp(png, 1);
    }
    static void ignore(png_structp, png_const_charp) {}

    std::string message_;
    png_structp png_;
    png_infop info_ = nullptr;
    int passes_ = 1;
};

// The weights of the input pixels first, first + 1, ... in one output pixel.
struct Window {
    int64_t first;
    std::vector<int32_t> weights;
};

// Binary places of the integer weights in PIL's 8-bit arithmetic.
constexpr int kPlaces = 22;

std::vector<Window> triangle_windows(int64_t from, int64_t to) {
    const double scale = double(from) / double(to), support = std::max(scale, 1.0);
    std::vector<Window> windows;
    for (int64_t i = 0; i < to; ++i) {
        const double centre = (i + 0.5) * scale;
        const int64_t first = std::max(int64_t(centre - support + 0.5), int64_t(0));
        const int64_t last = std::min(int64_t(centre + support + 0.5), from);
        std::vector<double> weights;
        double sum = 0;
        for (int64_t j = first; j < last; ++j) {
            weights.push_back(std::max(1.0 - std::abs((j - centre + 0.5) * (1.0 / support)), 0.0));
            sum += weights.back();
        }
        windows.push_back({first, {}});
        for (double weight : weights)
            windows.back().weights.push_back(int32_t(0.5 + weight / sum * (1 << kPlaces)));
    }
    return windows;
}

// Resize bytes (planes, length, inner) along the middle axis.
std::vector<uint8_t> resize_axis(const std::vector<uint8_t>& pixels, int64_t planes, int64_t from, int64_t to,
                                 int64_t inner) {
    if (from == to) return pixels;
    const std::vector<Window> windows = triangle_windows(from, to);
    std::vector<uint8_t> result(planes * to * inner);
    for (int64_t plane = 0; plane < planes; ++plane)
        for (int64_t i = 0; i < to; ++i)
            for (int64_t k = 0; k < inner; ++k) {
                const auto& [first, weights] = windows[i];
                int64_t sum = 1 << (kPlaces - 1);
                for (size_t j = 0; j < weights.size(); ++j)
                    sum += int64_t(pixels[(plane * from + first + j) * inner + k]) * weights[j];
                result[(plane * to + i) * inner + k] = uint8_t(std::clamp<int64_t>(sum >> kPlaces, 0, 255));
            }
    return result;
}

}  // namespace

Image read_png(const std::filesystem::path& path, const std::string& channel_order) {
    Size size{};
    try {
        const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
        if (!file) throw std::runtime_error("the file cannot be opened");
        PngReader reader(file.get());
        size = reader.read_header(channel_order == "BGR");
        const int64_t area = size.height * size.width;
        std::vector<uint8_t> interleaved(3 * area);
        reader.read_rows(interleaved.data(), size);
        Image image{size, std::vector<uint8_t>(3 * area)};
        for (int64_t i = 0; i < 3 * area; ++i) image.pixels[i % 3 * area + i / 3] = interleaved[i];
        return image;
    } catch (const std::bad_alloc&) {
        throw too_large(path, size);
    } catch (const std::runtime_error& error) {
        throw Error(path.string() + " cannot be read as an image",
                    {error.what(), "an upright PNG of 8 bits per channel", "convert the image"});
    }
}

Error too_large(const std::filesystem::path& path, Size size) {
    return Error("there is not enough memory for the image " + path.string(),
                 {std::to_string(size.height) + " x " + std::to_string(size.width) + " px",
                  "an image and outputs that fit into memory", "make the image smaller"});
}

Size resized_size(Size size, int64_t min_size, int64_t max_size) {
    double height = size.height, width = size.width;
    if (min_size > 0) {
        const double shortest = std::min(height, width), factor = min_size / shortest;
        height = height == shortest ? min_size : height * factor;
        width = width == shortest ? min_size : width * factor;
        if (const double longest = std::max(height, width); longest > max_size) {
            height *= max_size / longest;
            width *= max_size / longest;
        }
    }
    return {std::max<int64_t>(1, height + 0.5), std::max<int64_t>(1, width + 0.5)};
}

Image resize(const Image& image, Size size) {
    // PIL's order: horizontally first, with 8-bit values in between.
    const int64_t rows = 3 * image.size.height;
    const std::vector<uint8_t> wide = resize_axis(image.pixels, rows, image.size.width, size.width, 1);
    return {size, resize_axis(wide, 3, image.size.height, size.height, size.width)};
}

}  // namespace detexport
