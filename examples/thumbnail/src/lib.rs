//! Shrinks a PNG or JPEG that comes as base64, and answers with a JPEG.

use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::imageops::FilterType;
use image::{ImageFormat, ImageReader, Limits};
use serde::{Deserialize, Serialize};
use wambda::{Context, Error};

#[derive(Deserialize)]
struct Picture {
    /// A PNG or JPEG, in base64.
    image: String,
    /// Pixels of the longer side.
    width: u32,
}

#[derive(Serialize)]
struct Thumbnail {
    width: u32,
    height: u32,
    from: (u32, u32),
    /// A JPEG, in base64.
    image: String,
}

#[wambda::handler]
fn handle(event: Picture, _ctx: Context) -> Result<Thumbnail, Error> {
    if !(1..=4096).contains(&event.width) {
        let width = event.width;
        return Err(Error::new("InvalidWidth", format!("width must be 1 to 4096, got {width}")));
    }
    let bytes = BASE64.decode(&event.image)?;
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(20_000);
    limits.max_image_height = Some(20_000);
    reader.limits(limits);
    let picture = reader.decode()?;
    let small = picture.resize(event.width, event.width, FilterType::Lanczos3).into_rgb8();
    let mut jpeg = Cursor::new(Vec::new());
    small.write_to(&mut jpeg, ImageFormat::Jpeg)?;
    Ok(Thumbnail {
        width: small.width(),
        height: small.height(),
        from: (picture.width(), picture.height()),
        image: BASE64.encode(jpeg.into_inner()),
    })
}
